"""Compilation is told apart from training."""

import time

import jax
import jax.numpy as jnp
import pytest

from bigmodel.training.compilation import Compilation, compilation


def test_what_overlaps_counts_once() -> None:
    clock = Compilation()
    for start, end in ((0.0, 1.0), (2.0, 3.0), (4.0, 4.5), (3.5, 5.0), (4.75, 6.0)):
        clock.add(start, end)
    assert clock.seconds == pytest.approx(1 + 1 + 2.5)
    clock.add(-1.0, 7.0)
    assert clock.seconds == pytest.approx(8)


def test_it_is_the_time_of_the_first_call() -> None:
    jitted = jax.jit(lambda x: jnp.linalg.svd(x @ x)[1].sum())
    x, before, began = jnp.ones((5, 5)), compilation().seconds, time.monotonic()
    jax.block_until_ready(jitted(x))
    took, wall = compilation().seconds - before, time.monotonic() - began
    assert 0 < took <= wall
    jax.block_until_ready(jitted(x))
    assert compilation().seconds == before + took
