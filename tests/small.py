"""Models of a few thousand parameters, for tests of every part."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bigmodel import params as params_lib
from bigmodel.devices import QUICK_COMPILE
from bigmodel.layers.kernel import Request
from bigmodel.layers.kernels import KERNELS
from bigmodel.layers.masks import Causal
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.model import Model, apply
from bigmodel.training.state import abstract_params
from experiments import defaults

VOCAB = 32
SHAPE = {
    'depth': 2,
    'width': 16,
    'num_heads': 4,
    'num_kv_heads': 2,
    'vocab_size': VOCAB,
    'unroll': 1,  # the smallest program
}

# Other kernels are held by tests of their own, and here by what they say when they are refused.
CPU = Request(Causal(), False, 0.0, 'cpu', 'float32')
CPU_KERNELS = tuple(name for name, kernel in KERNELS.items() if not kernel().refusal(CPU))

# Tests hold what a program computes, not how fast (see tests/conftest.py). Golden values of tanh
# need the program as usual, because tanh is less exact when it is compiled quickly.
quick_jit = functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
exact_jit = functools.partial(
    jax.jit,
    compiler_options={
        'xla_backend_optimization_level': 3,
        'xla_llvm_disable_expensive_passes': False,
        'xla_cpu_use_fusion_emitters': True,
    },
)


def small_config(seq_len: int = 12, **model: Any) -> ConfigDict:
    """The default run with a small model, resolved; `model` overrides its keys."""
    config = defaults.get_config()
    config.data.seq_len = seq_len
    config.model.update(SHAPE | model)
    presets.resolve(config.model, seq_len)
    return config


def small_model(seq_len: int = 12, num_labels: int = 0, **model: Any) -> Model:
    """The model of `small_config`."""
    return build_model(small_config(seq_len, **model).model, VOCAB, num_labels, 'cpu')


def random_params(model: Model, seed: int = 0) -> Any:
    """Parameters that are all random, also those that start at 0 or 1, without compiling init."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = params_lib.path_of(path)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            low, high = jnp.iinfo(leaf.dtype).min, jnp.iinfo(leaf.dtype).max
            return jnp.asarray(rng.integers(low, high, leaf.shape, endpoint=True), leaf.dtype)
        x = rng.standard_normal(leaf.shape)
        if name.endswith('weight'):
            x = x / math.sqrt(math.prod(leaf.shape[1:-1]))
        elif name.endswith('scale'):
            x = 1 + 0.2 * x
        return jnp.asarray(x, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, unboxed_shapes(model))


def unboxed_shapes(model: Model) -> Any:
    """The abstract parameters without their logical axes."""
    return jax.tree.map(
        lambda box: box.value, abstract_params(model), is_leaf=lambda x: hasattr(x, 'names')
    )


def random_tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Uniform token ids."""
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)


@functools.cache
def forward(model: Model) -> Any:
    """The compiled `(params, tokens, positions, segments) -> outputs` of a model."""
    return quick_jit(lambda p, t, pos, seg: apply(model, p, t, pos, seg))


def slots(rows: int, length: int) -> np.ndarray:
    """Positions 0, 1, … in every row."""
    return np.tile(np.arange(length, dtype=np.int32), (rows, 1))


def assert_trees_close(a: Any, b: Any, rtol: float, atol: float) -> None:
    """Same structure, close leaves; the message names the leaf."""
    left, right = params_lib.flatten(a), params_lib.flatten(b)
    assert left.keys() == right.keys()
    for path, x in left.items():
        np.testing.assert_allclose(x, right[path], rtol=rtol, atol=atol, err_msg=path)
