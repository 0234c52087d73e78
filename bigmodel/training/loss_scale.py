"""Loss scaling: gradients of a larger loss, which float16 does not round to 0, and divided again.

What is scaled is the loss as a mean, up to a factor of two: the power of two below its weight is
divided out. So a scale means the same for every batch, and a scale that is a power of two changes
no bit of a gradient that neither overflows nor underflows. A step of which a gradient is not finite
changes no parameter.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import POSITIVE, Range, make

State = dict[str, jax.Array]
GROWS = Range(lambda x: x > 1, 'above 1')
LEAST = 2.0**-24  # float16's smallest number: of a mean loss times this nothing would be left
SCALE = Range(lambda x: LEAST <= x <= 2.0**126, 'from 2**-24 to 2**126')
MANY = 40  # skipped steps, which may be more than half of all


@dataclasses.dataclass(frozen=True)
class NoScale:
    """Gradients are of the loss itself, and every step counts."""

    def init(self) -> State:
        """What is kept between steps."""
        return {}

    def grad(self, loss_fn: Callable[..., Any], state: State) -> Callable[..., tuple[Any, Metrics]]:
        """The gradient function of `loss_fn`, which gives a sum and metrics."""
        return jax.grad(loss_fn, has_aux=True)

    def finite(self, grads: Any) -> jax.Array:
        """Whether this step may change parameters."""
        return jnp.bool_(True)

    def after(self, state: State, finite: jax.Array) -> tuple[State, Metrics]:
        """The next state, and what this step says of its scale."""
        return state, {}


class Scaled(NoScale):
    """Base of both that scale."""

    def scale_of(self, state: State) -> jax.Array:
        """The scale of the next step."""
        raise NotImplementedError

    def init(self) -> State:
        return {'skipped_steps': jnp.zeros((), jnp.int32)}

    def grad(self, loss_fn: Callable[..., Any], state: State) -> Callable[..., tuple[Any, Metrics]]:
        scale = self.scale_of(state)

        def scaled(*args: Any) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
            total, metrics = loss_fn(*args)
            factor = scale / _power_of_two(jax.lax.stop_gradient(metrics['loss'].weight))
            return total * factor, (metrics, factor)

        def grad(*args: Any) -> tuple[Any, Metrics]:
            grads, (metrics, factor) = jax.grad(scaled, has_aux=True)(*args)
            # In float32: bfloat16 has no scale that is no power of two.
            exact = jax.tree.map(lambda g: (g.astype(jnp.float32) / factor).astype(g.dtype), grads)
            return exact, metrics

        return grad

    def finite(self, grads: Any) -> jax.Array:
        return jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))

    def after(self, state: State, finite: jax.Array) -> tuple[State, Metrics]:
        skipped = state['skipped_steps'] + ~finite
        told = {'loss_scale': self.scale_of(state), 'skipped_steps': skipped.astype(jnp.float32)}
        metrics = {name: Mean(value, jnp.float32(1)) for name, value in told.items()}
        return state | {'skipped_steps': skipped}, metrics


@dataclasses.dataclass(frozen=True)
class Fixed(Scaled):
    """The loss is multiplied by `scale` (Micikevicius et al. 2018, §3.2)."""

    scale: Annotated[float, SCALE] = 1024.0

    def scale_of(self, state: State) -> jax.Array:
        return jnp.float32(self.scale)


@dataclasses.dataclass(frozen=True)
class Dynamic(Scaled):
    """A scale that is divided by `factor` when a gradient is not finite, and multiplied by it after
    `growth_interval` steps in a row whose gradients all are (Micikevicius et al. 2018, §3.2, as
    torch.amp.GradScaler does it).
    """

    initial: Annotated[float, SCALE] = 65536.0
    growth_interval: Annotated[int, POSITIVE] = 2000
    factor: Annotated[float, GROWS] = 2.0

    def init(self) -> State:
        own = {'scale': jnp.float32(self.initial), 'finite_steps': jnp.zeros((), jnp.int32)}
        return super().init() | own

    def scale_of(self, state: State) -> jax.Array:
        return state['scale']

    def after(self, state: State, finite: jax.Array) -> tuple[State, Metrics]:
        state, metrics = super().after(state, finite)
        scale, steps = state['scale'], state['finite_steps'] + 1
        grows = finite & (steps == self.growth_interval)
        larger = scale * self.factor
        larger = jnp.where(grows & jnp.isfinite(larger), larger, scale)
        scale = jnp.where(finite, larger, scale / self.factor)
        steps = jnp.where(finite & ~grows, steps, 0)
        return state | {'scale': scale, 'finite_steps': steps}, metrics


LOSS_SCALES = {'none': NoScale, 'fixed': Fixed, 'dynamic': Dynamic}


def resolved(config: ConfigDict) -> str:
    """`optimizer.loss_scale`, where 'auto' is dynamic for float16 and else none."""
    text = config.optimizer.loss_scale
    if text != 'auto':
        return text
    return 'dynamic' if config.model.dtype == 'float16' else 'none'


def build_loss_scale(config: ConfigDict) -> NoScale:
    """The loss scaling of a run config."""
    return make(LOSS_SCALES, resolved(config), 'optimizer.loss_scale')


def check_scale(step: int, metrics: Metrics) -> None:
    """Raises UserError when no scale is small enough for gradients to be finite, and when most
    steps change nothing.
    """
    if 'loss_scale' not in metrics:
        return
    scale, skipped = (metrics[name].value() for name in ('loss_scale', 'skipped_steps'))
    if skipped >= MANY and 2 * skipped > step:
        raise UserError(
            f'{skipped:.0f} of {step} steps had gradients that are not finite, at a loss scale of '
            f'{scale:.2g}, and changed nothing; set a smaller optimizer.loss_scale, or '
            f'model.dtype=bfloat16 (check_finite=False goes on regardless)'
        )
    if scale < LEAST:
        raise UserError(
            f'gradients are not finite at any loss scale: it is {scale:.2g} at step {step}; '
            f'activations overflow by themselves: set model.dtype=bfloat16, or a lower '
            f'optimizer.learning_rate (check_finite=False goes on regardless)'
        )


def _power_of_two(x: jax.Array) -> jax.Array:
    """The largest one that is at most x; for 0, one half."""
    _, exponent = jnp.frexp(x)
    return jnp.ldexp(jnp.ones_like(x), exponent - 1)
