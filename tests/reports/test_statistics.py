"""Differences, intervals and verdicts, by hand and by simulation."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from bigmodel.reports.gathered import gather
from bigmodel.reports.statistics import compare, interval, noise_floor, verdict
from tests.reports.made import made_sweep


def sweep_of(tmp_path, values: dict[str, list[float]], better: str = 'min', name: str = 'sweep'):
    """What is gathered of arms whose runs end with these values, a seed each."""
    arms = {arm: {'optimizer.learning_rate': 0.5 + i} for i, arm in enumerate(values)}
    ends = {0.5 + i: ends for i, ends in enumerate(values.values())}
    seeds = tuple(range(max(map(len, values.values()))))

    def curve(changes, seed):
        return [(100, ends[changes['optimizer.learning_rate']][seed])]

    sweep = made_sweep(tmp_path / name, arms, seeds, curve, better=better)
    return gather([sweep.path])


def test_differences_are_paired_by_seed(tmp_path) -> None:
    base, other = [1.0, 2.0, 3.0], [0.89, 1.91, 2.90]
    found = sweep_of(tmp_path, {'base': base, 'other': other})
    ours = compare(found)[1]
    theirs = stats.ttest_rel(other, base)
    low, high = theirs.confidence_interval(0.95)
    assert ours.difference == pytest.approx(np.mean(other) - np.mean(base))
    assert (ours.low, ours.high) == pytest.approx((low, high))
    assert ours.q == pytest.approx(theirs.pvalue)  # one arm: nothing to correct
    assert ours.verdict == 'better' and ours.seeds == 3
    # An unpaired test drowns it in what seeds have in common.
    assert stats.ttest_ind(other, base).pvalue > 0.5
    assert 'other is better than base' in verdict(found, compare(found))


def test_p_values_are_corrected_for_the_number_of_arms(tmp_path) -> None:
    rng = random.Random(0)
    base = [rng.gauss(0, 1) for _ in range(4)]
    arms = {f'arm{i}': [b + rng.gauss(0.5, 0.4) for b in base] for i in range(6)}
    compared = compare(sweep_of(tmp_path, {'base': base, **arms}))[1:]
    p = [stats.ttest_rel(values, base).pvalue for values in arms.values()]
    # Benjamini & Hochberg: the least p·m/rank of it and all larger ones.
    ordered = sorted(p)
    by_hand = [
        min(q * 6 / (i + 1) for i, q in enumerate(ordered) if i >= ordered.index(one)) for one in p
    ]
    assert [c.q for c in compared] == pytest.approx(by_hand)


def test_without_an_effect_verdicts_are_rare(tmp_path) -> None:
    """200 sweeps of five arms that are the same: about one in twenty has any verdict."""
    rng, wrong = random.Random(1), 0
    for i in range(200):
        shared = [rng.gauss(0, 1) for _ in range(4)]
        arms = {f'arm{j}': [s + rng.gauss(0, 0.1) for s in shared] for j in range(6)}
        found = sweep_of(tmp_path, arms, name=f'sweep{i}')
        wrong += any(c.verdict in ('better', 'worse') for c in compare(found))
    assert wrong <= 18  # of a binomial with p = 0.05 more than that is one case of 80


@pytest.mark.parametrize(
    ('better', 'values', 'expected'),
    [
        ('min', [0.50, 0.51, 0.52], 'better'),
        ('max', [0.50, 0.51, 0.52], 'worse'),
        ('min', [1.50, 1.51, 1.53], 'worse'),
        ('min', [1.00, 1.12, 0.95], 'within noise'),
        ('min', [0.50, 0.51], 'too few seeds'),
        ('min', [], 'not finished'),
    ],
)
def test_verdicts(tmp_path, better, values, expected) -> None:
    base = [1.00, 1.01, 1.03]
    filled = values + [math.nan] * (3 - len(values))
    assert compare(sweep_of(tmp_path, {'base': base, 'x': filled}, better))[1].verdict == expected


def test_the_noise_floor_is_not_moved_by_a_diverging_arm(tmp_path) -> None:
    arms = {'a': [1.0, 1.1], 'b': [2.0, 2.1], 'c': [5.0, 900.0]}
    compared = compare(sweep_of(tmp_path, arms))
    assert noise_floor(compared) == pytest.approx(np.std([1.0, 1.1], ddof=1))
    assert interval([1.0]) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_sentences_of_what_cannot_be_said(tmp_path) -> None:
    one = sweep_of(tmp_path, {'a': [1.0], 'b': [0.9]}, name='one')
    assert 'Too few seeds for a verdict' in verdict(one, compare(one))
    same = sweep_of(tmp_path, {'a': [1.0, 1.1, 0.9], 'b': [1.1, 0.9, 1.0]}, name='same')
    assert 'No arm is distinguishably better than a' in verdict(same, compare(same))
    lost = sweep_of(tmp_path, {'a': [math.nan] * 3, 'b': [0.9] * 3}, name='lost')
    assert 'The baseline a has not finished' in verdict(lost, compare(lost))
    assert verdict(lost, []) == 'No arm has finished yet.'
