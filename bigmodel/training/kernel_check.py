"""Whether the kernels of a run agree with the reference on the run's own shapes and devices."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel import devices
from bigmodel.errors import UserError
from bigmodel.layers.coordinates import Context
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.kernels import choose_for
from bigmodel.layers.masks import Mask
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import PLAIN, Weights
from bigmodel.sharding import all_layers
from bigmodel.training.batches import host_rows, put_batch
from bigmodel.training.outline import model_of
from bigmodel.training.setup import Setup
from bigmodel.training.step import EMPTY, make_eval_step

# Of the largest error of a row over its norm. Half precision keeps 8 or 11 bits of each factor;
# accelerators multiply float32 with as few.
TOLERANCES = {'float32': 1e-4, 'float16': 2e-2, 'bfloat16': 1e-1}


def check_kernels(setup: Setup, params: Any, companions: Any = EMPTY) -> dict[str, Any]:
    """Compares each kernel of the model, other than the reference, with it; for `run.json`.

    One row of the first batch for every device that splits it goes through the model, on its mesh.
    On several hosts the first one has the figures.
    """
    calls: dict[tuple, dict[str, Any]] = {}

    def report(described: tuple, output: Array, gradients: Array) -> None:
        worst = calls.setdefault(described, {'output': 0.0, 'gradients': 0.0})
        for key, error in (('output', output), ('gradients', gradients)):
            worst[key] = max(float(error), worst[key])

    def compared(spec: str, request: Request) -> tuple[str, Kernel]:
        name, kernel = choose_for(setup.sharding.splits_rows)(spec, request)
        return name, kernel if type(kernel) is Reference else Compared(name, kernel, report)

    config = setup.config.copy_and_resolve_references()
    config.model.unroll = 1  # the smallest program
    model = model_of(config, setup.task, setup.data, setup.platform, compared)
    step = make_eval_step(model, setup.task, setup.companion_models)
    step = jax.jit(step, compiler_options=devices.quick_compile())
    rows = len(host_rows(setup.sharding, setup.sharding.batch_ways))
    batch = {name: x[:rows] for name, x in setup.data.batches(0).items()}
    with all_layers():
        jax.block_until_ready(step(params, put_batch(batch, setup.sharding), dict(companions)))
    jax.effects_barrier()
    found = [dict(described) | worst for described, worst in calls.items()]
    limits = [_tolerance(call['dtype'], setup.platform) for call in found]
    agree = [
        call['output'] <= limit and call['gradients'] <= limit
        for call, limit in zip(found, limits, strict=True)
    ]
    return {
        'agrees': all(agree),
        'calls': [
            call | {'tolerance': limit, 'agrees': fine}
            for call, limit, fine in zip(found, limits, agree, strict=True)
        ],
    }


def summary(report: dict[str, Any]) -> str:
    """What came out, in a line."""
    if not report['calls']:
        return 'nothing to check: all is the reference'
    worst = {key: _worst(report, key) for key in ('output', 'gradients')}
    names = ', '.join(sorted({call['kernel'] for call in report['calls']}))
    verdict = 'agrees' if report['agrees'] else 'does not agree'
    return (
        f'{names} {verdict} with reference: relative error {worst["output"]:.1e}, of gradients '
        f'{worst["gradients"]:.1e}'
    )


def require(report: dict[str, Any]) -> None:
    """Raises UserError when a kernel does not agree."""
    for call in report['calls']:
        if not call['agrees']:
            raise UserError(
                f'model.kernel: {call["kernel"]} does not agree with reference for queries '
                f'{call["queries"]}, mask {call["mask"]}: relative error {call["output"]:.2g}, of '
                f'gradients {call["gradients"]:.2g}, allowed {call["tolerance"]:g}; '
                f"set model.kernel='reference'"
            )


@dataclasses.dataclass(frozen=True)
class Compared(Kernel):
    """Reports how far a kernel is from the reference, whose result it gives.

    Queries, keys, values and the gradient that comes back are random, because what a new model
    makes of its tokens may be 0; masks, documents, biases and weights are the model's.
    """

    name: str
    kernel: Kernel
    report: Callable[..., None]

    def __call__(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        v_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
        dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
        weights: Weights = PLAIN,
    ) -> Float[Array, 'B L H K']:
        drawn = [
            jax.random.normal(jax.random.key(i), x.shape, x.dtype)
            for i, x in enumerate((q_BLHK, k_BSGK, v_BSGK, q_BLHK))
        ]
        got, want = (
            _output_and_gradients(kernel, *drawn, mask, context, weights)
            for kernel in (self.kernel, Reference())
        )
        errors = [
            _row_error(x, y)
            for x, y in zip(got, want, strict=True)
            if jnp.issubdtype(y.dtype, jnp.inexact)
        ]
        described = (
            ('kernel', self.name),
            ('mask', str(mask)),
            ('queries', q_BLHK.shape),
            ('keys', k_BSGK.shape),
            ('dtype', q_BLHK.dtype.name),
        )
        worst = jnp.max(jnp.stack(errors[1:]))
        jax.debug.callback(partial(self.report, described), errors[0], worst)
        return Reference()(q_BLHK, k_BSGK, v_BSGK, mask, context, dropout, dropout_key, weights)


def _output_and_gradients(
    kernel: Kernel,
    q: Array,
    k: Array,
    v: Array,
    do: Array,
    mask: Mask,
    context: Context,
    weights: Weights,
) -> list[Array]:
    """The output, and the gradients of q, k, v and of what the bias and the weights learn."""

    def attend(q: Array, k: Array, v: Array, bias: Any, weights: Weights) -> Array:
        return kernel(q, k, v, mask, context.replace(bias=bias), weights=weights)

    output, vjp = jax.vjp(attend, q, k, v, context.bias, weights)
    return [output, *jax.tree.leaves(vjp(do))]


def _row_error(got: Array, want: Array) -> Float[Array, '']:
    """The largest norm of a row's error over the row's norm, or over the mean norm if larger.

    A kernel that leaves out one of many keys changes few rows, and those by little beside the
    largest; rows that are nearly 0 are noise beside themselves.
    """
    got, want = (jnp.atleast_1d(x).astype(jnp.float32) for x in (got, want))
    norm = jnp.linalg.norm(want, axis=-1)
    scale = jnp.maximum(norm, jnp.mean(norm))
    errors = jnp.linalg.norm(got - want, axis=-1) / jnp.where(scale > 0, scale, 1.0)
    # A NaN is the largest float, which JSON can hold: a maximum over devices may forget it.
    return jnp.where(jnp.isfinite(got).all(), jnp.max(errors), jnp.finfo(jnp.float32).max)


def _tolerance(dtype: str, platform: str) -> float:
    return TOLERANCES['bfloat16' if platform != 'cpu' and dtype == 'float32' else dtype]


def _worst(report: dict[str, Any], key: str) -> float:
    return max(call[key] for call in report['calls'])
