"""Learning-rate schedules: a multiplier of the peak rate as a function of the step.

All arguments may be traced, so that runs with other lengths share one compiled program. Steps count
from 0; during warm-up the multiplier is (step+1)/warmup_steps.
"""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigmodel.specs import NOT_NEGATIVE

Step = Int[Array, '']
Multiplier = Float[Array, '']
Steps = Annotated[int | Multiplier, NOT_NEGATIVE]
Final = Annotated[float | Multiplier, NOT_NEGATIVE]


def constant(step: Step, num_steps: Multiplier, *, warmup_steps: Steps = 0) -> Multiplier:
    """1 after a linear warm-up."""
    return _warmup(step, warmup_steps)


def linear(
    step: Step,
    num_steps: Multiplier,
    *,
    warmup_steps: Steps = 0,
    final: Final = 0.0,
) -> Multiplier:
    """Linear decay from 1 to `final` at the last step."""
    return _warmup(step, warmup_steps) * (1 + (final - 1) * _after(step, warmup_steps, num_steps))


def cosine(
    step: Step,
    num_steps: Multiplier,
    *,
    warmup_steps: Steps = 0,
    final: Final = 0.1,
) -> Multiplier:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, without restarts)."""
    decay = 0.5 * (1 + jnp.cos(jnp.pi * _after(step, warmup_steps, num_steps)))
    return _warmup(step, warmup_steps) * (final + (1 - final) * decay)


def inverse_sqrt(step: Step, num_steps: Multiplier, *, warmup_steps: Steps = 1000) -> Multiplier:
    """√(warmup/step) after the warm-up (Vaswani et al. 2017, §5.3, with a peak of 1)."""
    warm = jnp.maximum(jnp.asarray(warmup_steps, jnp.float32), 1)
    return jnp.minimum((step + 1) / warm, jnp.sqrt(warm / (step + 1)))


def wsd(
    step: Step,
    num_steps: Multiplier,
    *,
    warmup_steps: Steps = 0,
    decay_steps: Steps = 0,
    final: Final = 0.0,
) -> Multiplier:
    """Warm-up, stable, then linear decay in the last `decay_steps` (Hu et al. 2024).

    `decay_steps` 0 is a fifth of the run.
    """
    length = jnp.where(jnp.asarray(decay_steps) > 0, decay_steps, num_steps / 5)
    done = jnp.clip((step + 1 - (num_steps - length)) / length, 0, 1)
    return _warmup(step, warmup_steps) * (1 + (final - 1) * done)


SCHEDULES = {
    'constant': constant,
    'linear': linear,
    'cosine': cosine,
    'inverse_sqrt': inverse_sqrt,
    'wsd': wsd,
}


def _warmup(step: Step, warmup_steps: int | Multiplier) -> Multiplier:
    return jnp.minimum((step + 1) / jnp.maximum(jnp.asarray(warmup_steps, jnp.float32), 1), 1)


def _after(step: Step, warmup_steps: int | Multiplier, num_steps: Multiplier) -> Multiplier:
    """How much of the time after warm-up has passed, 0 to 1."""
    length = jnp.maximum(jnp.asarray(num_steps - warmup_steps, jnp.float32), 1)
    return jnp.clip((step + 1 - warmup_steps) / length, 0, 1)
