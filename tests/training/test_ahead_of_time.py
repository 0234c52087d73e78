"""A whole training step is compiled for a TPU that is not there, where `pip install libtpu` was.

python -m pytest -rs -s tests/training/test_ahead_of_time.py
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bigmodel.models.build import build_model
from bigmodel.planning.topology import devices_of, parse_topology, without_flags
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import abstract_params, init_state, state_sharding
from bigmodel.training.step import make_train_step
from tests.small import small_config

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs `pip install libtpu`'
)
LENGTH, ROWS, VOCAB = 2048, 16, 512
MODEL = {
    'width': 512,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': 128,
    'vocab_size': VOCAB,
    'dtype': 'bfloat16',
}


@functools.cache
def sharding() -> Sharding:
    """16 chips, described by libtpu alone: nothing asks for the machine's own."""
    chips = devices_of(parse_topology('v5e:4x4'))
    return make_sharding('fsdp=8,tensor=2', 'fsdp_tensor', chips)


def compiled_step(**model: Any) -> Any:
    """The training step of `causal_lm` with AdamW on packed rows, compiled."""
    config, task = small_config(LENGTH, **(MODEL | model)), build_task('causal_lm')
    part = build_model(config.model, VOCAB, 0, 'tpu')
    boxed = abstract_params(part)
    optimizer, hparams = build_optimizer(config, boxed)
    shapes = jax.eval_shape(lambda h: init_state(part, optimizer, h), hparams)
    placed = state_sharding(sharding(), boxed, shapes)
    state = jax.tree.map(_abstract, shapes, placed)
    batch_place = sharding().batch((ROWS, LENGTH + 1))
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, LENGTH + 1), jnp.int32, sharding=batch_place)
        for name in ('tokens', 'positions', 'segments')
    }
    hparams = jax.tree.map(lambda x: _abstract(x, sharding().replicated()), hparams)
    step = make_train_step(part, task, optimizer, 1)
    with sharding().active():
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(placed, None))
        lowered = jitted.lower(state, batch, hparams)
        with without_flags():
            return lowered.compile()


def _abstract(x: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=place)


def temporaries(**model: Any) -> float:
    """Megabytes a chip beside the state and the batch."""
    return compiled_step(**model).memory_analysis().temp_size_in_bytes / 1e6


def test_splash_compiles_forward_and_backward_and_saves_memory() -> None:
    plain, splash = temporaries(kernel='reference'), temporaries(kernel='splash')
    print(f'\ntemporaries a chip at length {LENGTH}: reference {plain:.0f} MB, splash {splash:.0f}')
    assert splash < plain / 2


@pytest.mark.parametrize(
    'model',
    [
        {'mask': 'window(512)', 'mixer': 'attention(weights="softmax(cap=30)")'},
        {'mixer': 'attention(weights="sinks")', 'remat': 'full'},
    ],
    ids=['window_cap', 'sinks_remat'],
)
def test_what_splash_serves_compiles(model: dict) -> None:
    assert compiled_step(**{'kernel': 'splash', **model})
