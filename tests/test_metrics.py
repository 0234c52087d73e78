"""Means are sums until the end."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel.metrics import Mean, add, values


def test_mean_counts_values_by_weight() -> None:
    mean = Mean.of(jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 0.0, 3.0]))
    assert mean.value() == (1 + 18) / 4
    assert Mean.of(jnp.array([1.0, 2.0, 6.0])).value() == 3


def test_any_split_of_the_values_gives_the_same_mean() -> None:
    rng = np.random.default_rng(0)
    values, weights = (jnp.asarray(rng.integers(0, 9, 12), jnp.float32) for _ in range(2))
    whole = {'loss': Mean.of(values, weights)}
    for cuts in ([4, 8], [1, 2, 11], [6]):
        parts = zip(np.split(values, cuts), np.split(weights, cuts), strict=True)
        total = {'loss': Mean(0.0, 0.0)}
        for v, w in parts:
            total = add(total, {'loss': Mean.of(jnp.asarray(v), jnp.asarray(w))})
        assert total['loss'].value() == whole['loss'].value()


def test_nothing_counted_is_nan() -> None:
    assert math.isnan(Mean(0.0, 0.0).value())
    assert math.isnan(Mean.of(jnp.ones(3), jnp.zeros(3)).value())


def test_what_counted_nothing_has_no_value_but_the_loss_which_is_nan() -> None:
    nothing = Mean(0.0, 0.0)
    assert values({'loss': Mean(3.0, 2.0), 'nll': nothing, 'mse/a': nothing}) == {'loss': 1.5}
    found = values({'loss': nothing, 'accuracy': nothing})
    assert found.keys() == {'loss'} and math.isnan(found['loss'])


def test_masked_values_do_not_count_even_when_infinite_is_avoided() -> None:
    assert Mean.of(jnp.array([5.0, 1e30]), jnp.array([1.0, 0.0])).value() == 5


def test_means_pass_through_jit() -> None:
    got = jax.jit(lambda x: add({'a': Mean.of(x)}, {'a': Mean.of(2 * x)}))(jnp.ones(4))
    assert got['a'].value() == 1.5
