"""Schedules against closed formulas, in Python and traced."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from bigmodel.training.schedules import SCHEDULES


def progress(t: int, n: int, warmup: int) -> float:
    """How much of the time after warm-up has passed at the end of step t − 1."""
    return min(max((t - warmup) / (n - warmup), 0), 1)


# Spec -> multiplier of update t = step + 1 of n. A new schedule needs a line.
FORMULAS: dict[str, tuple[dict, Callable[[int, int], float]]] = {
    'constant': ({'warmup_steps': 10}, lambda t, n: min(t / 10, 1)),
    'linear': (
        {'warmup_steps': 10, 'final': 0.2},
        lambda t, n: t / 10 if t <= 10 else 1 - 0.8 * progress(t, n, 10),
    ),
    'cosine': (
        {'warmup_steps': 10, 'final': 0.1},
        lambda t, n: t / 10 if t <= 10 else 0.55 + 0.45 * math.cos(math.pi * progress(t, n, 10)),
    ),
    'inverse_sqrt': (
        {'warmup_steps': 10},
        lambda t, n: min(t / 10, math.sqrt(10 / t)),
    ),
    'wsd': (
        {'warmup_steps': 10, 'decay_steps': 20, 'final': 0.5},
        lambda t, n: t / 10 if t <= 10 else 1 if t <= n - 20 else 1 - 0.5 * (t - n + 20) / 20,
    ),
}
NUM_STEPS = 100
STEPS = (0, 1, 4, 9, 10, 11, 50, 79, 80, 81, 98, 99)


def test_every_schedule_has_a_formula() -> None:
    assert set(FORMULAS) == set(SCHEDULES)


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedule_is_its_formula_with_traced_arguments(name: str) -> None:
    arguments, formula = FORMULAS[name]
    run = jax.jit(SCHEDULES[name])
    traced = {k: jnp.float32(v) for k, v in arguments.items()}
    for step in STEPS:
        want = formula(step + 1, NUM_STEPS)
        got = run(jnp.int32(step), jnp.float32(NUM_STEPS), **traced)
        assert float(got) == pytest.approx(want, abs=1e-5), step
    assert run._cache_size() == 1


@pytest.mark.parametrize('name', SCHEDULES)
def test_arguments_may_be_python_numbers(name: str) -> None:
    arguments, formula = FORMULAS[name]
    got = SCHEDULES[name](jnp.int32(50), jnp.float32(NUM_STEPS), **arguments)
    assert float(got) == pytest.approx(formula(51, NUM_STEPS), abs=1e-5)


@pytest.mark.parametrize('name', ['linear', 'cosine', 'wsd'])
def test_without_warmup_it_starts_near_one_and_ends_at_final(name: str) -> None:
    run = functools.partial(
        SCHEDULES[name], num_steps=jnp.float32(NUM_STEPS), warmup_steps=0, final=0.25
    )
    assert float(run(jnp.int32(0))) == pytest.approx(1, abs=0.01)
    assert float(run(jnp.int32(NUM_STEPS - 1))) == pytest.approx(0.25, abs=1e-6)
    assert float(run(jnp.int32(10 * NUM_STEPS))) == pytest.approx(0.25, abs=1e-6)


def test_wsd_decays_over_a_fifth_by_default() -> None:
    run = functools.partial(SCHEDULES['wsd'], num_steps=jnp.float32(NUM_STEPS))
    values = [float(run(jnp.int32(t - 1))) for t in (1, 80, 90, 100)]
    assert values == pytest.approx([1, 1, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_run_shorter_than_its_warmup_stays_finite(name: str) -> None:
    got = SCHEDULES[name](jnp.int32(2), jnp.float32(3), warmup_steps=10)
    assert 0 <= float(got) <= 1
