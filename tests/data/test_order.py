"""The shuffled order: permutations that differ, look random, and depend on nothing else."""

import numpy as np
import pytest

from bigmodel.data.order import ShuffledOrder


@pytest.mark.parametrize('size', [1, 2, 3, 5, 64, 1000, 4096, 10_007])
def test_every_epoch_is_a_different_permutation(size):
    order = ShuffledOrder(size, seed=1)
    epochs = [order(e * size, size) for e in range(4)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(size))
    if size > 10:
        assert len({e.tobytes() for e in epochs}) == 4


def test_small_permutations_are_all_found_about_equally_often():
    order = ShuffledOrder(4, seed=0)
    found = order(0, 4 * 24_000).reshape(-1, 4)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 800 and counts.max() < 1200  # 1000 expected, 6 standard deviations


def test_neighbours_are_unrelated():
    rows = ShuffledOrder(100_000, seed=3)(0, 100_000)
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.02
    assert np.mean(np.diff(rows) == 1) < 1e-3


def test_seeds_give_different_orders():
    orders = {ShuffledOrder(1000, seed)(0, 1000).tobytes() for seed in (0, 1, 2, -1, 2**40)}
    assert len(orders) == 5


def test_any_stretch_is_a_slice_of_the_sequence():
    whole = ShuffledOrder(777, seed=5)(0, 20_000)
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, count = rng.integers(19_000), rng.integers(1, 1000)
        assert np.array_equal(
            ShuffledOrder(777, seed=5)(int(start), int(count)), whole[start : start + count]
        )


def test_far_steps_and_huge_sets_cost_nothing_more():
    rows = ShuffledOrder(10**12, seed=0)(10**13, 100)
    assert len(set(rows.tolist())) == 100
    assert rows.max() < 10**12


def test_the_order_never_changes():
    """Golden: a change here would give every resumed run other data."""
    assert ShuffledOrder(10, seed=0)(0, 10).tolist() == GOLDEN


GOLDEN = [7, 8, 2, 6, 9, 3, 0, 4, 5, 1]
