"""Differences, intervals and verdicts, by hand and by simulation."""

import dataclasses
import math
import pathlib
import random

import numpy as np
import pytest
from scipy import stats

from bigmodel.reports.gathered import Arm, Gathered, Run
from bigmodel.reports.noise import noise, power, seeds_needed
from bigmodel.reports.statistics import compare, interval
from bigmodel.reports.verdict import verdict


def sweep_of(values: dict[str, list[float]], better: str = 'min') -> Gathered:
    """Arms whose finished runs end with these values, a seed each; the first is the baseline."""
    arms = tuple(
        Arm(name, {}, tuple(run_of(name, seed, end) for seed, end in enumerate(ends)))
        for name, ends in values.items()
    )
    return Gathered('t', 'q', 'validation/loss', better, next(iter(values)), 'config', arms, ())


def run_of(arm: str, seed: int, end: float, state: str = 'done') -> Run:
    return Run(arm, seed, state, pathlib.Path('x'), ((100, end),), '', {'steps': 100}, {})


def test_differences_are_paired_by_seed() -> None:
    base, other = [1.0, 2.0, 3.0], [0.89, 1.91, 2.90]
    found = sweep_of({'base': base, 'other': other})
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


def test_p_values_are_corrected_for_the_number_of_arms() -> None:
    rng = random.Random(0)
    base = [rng.gauss(0, 1) for _ in range(4)]
    arms = {f'arm{i}': [b + rng.gauss(0.5, 0.4) for b in base] for i in range(6)}
    compared = compare(sweep_of({'base': base, **arms}))[1:]
    p = [stats.ttest_rel(values, base).pvalue for values in arms.values()]
    # Benjamini & Hochberg: the least p·m/rank of it and all larger ones.
    ordered = sorted(p)
    by_hand = [
        min(q * 6 / (i + 1) for i, q in enumerate(ordered) if i >= ordered.index(one)) for one in p
    ]
    assert [c.q for c in compared] == pytest.approx(by_hand)


def test_without_an_effect_verdicts_are_rare() -> None:
    """200 sweeps of five arms that are the same: about one in twenty has any verdict."""
    rng, wrong = random.Random(1), 0
    for _ in range(200):
        shared = [rng.gauss(0, 1) for _ in range(4)]
        arms = {f'arm{j}': [s + rng.gauss(0, 0.1) for s in shared] for j in range(6)}
        found = sweep_of(arms)
        wrong += any(c.verdict in ('better', 'worse') for c in compare(found))
    assert wrong <= 18  # of a binomial with p = 0.05 more than that is one case of 80


@pytest.mark.parametrize(
    ('better', 'values', 'expected'),
    [
        ('min', [0.50, 0.51, 0.52], 'better'),
        ('max', [0.50, 0.51, 0.52], 'worse'),
        ('min', [1.50, 1.52, 1.53], 'worse'),
        ('min', [1.50, 1.51, 1.53], 'within noise'),  # no noise at all: too coarse a metric
        ('min', [1.00, 1.12, 0.95], 'within noise'),
        ('min', [0.50, 0.51], 'too few seeds'),
        ('min', [], 'failed'),  # NaN at their ends
    ],
)
def test_verdicts(better, values, expected) -> None:
    base = [1.00, 1.01, 1.03]
    filled = values + [math.nan] * (3 - len(values))
    assert compare(sweep_of({'base': base, 'x': filled}, better))[1].verdict == expected


@pytest.mark.parametrize(
    ('states', 'expected'),
    [
        (('pruned', 'pruned', 'failed'), 'pruned'),
        (('failed', 'failed', 'failed'), 'failed'),
        (('failed', 'running', 'waiting'), 'not finished'),
        (('done', 'pruned', 'pruned'), 'too few seeds'),
    ],
)
def test_what_has_not_finished_is_not_compared(states, expected) -> None:
    found = sweep_of({'base': [1.0, 1.1, 1.2], 'x': [0.1, 0.1, 0.1]})
    runs = tuple(run_of('x', seed, 0.1, state) for seed, state in enumerate(states))
    x = Arm('x', {}, runs)
    compared = compare(dataclasses.replace(found, arms=(found.arms[0], x)))[1]
    assert compared.verdict == expected and math.isnan(compared.q)
    assert compared.seeds == states.count('done')


def test_the_noise_floor_is_pooled_without_a_diverging_arm() -> None:
    arms = {'a': [1.0, 1.1, 1.3], 'b': [2.0, 2.1, 2.0], 'c': [3.0, 3.3], 'd': [5.0, 900.0, 7.0]}
    known = noise(sweep_of({k: v + [math.nan] * (3 - len(v)) for k, v in arms.items()}))
    by_hand = (2 * np.var(arms['a'], ddof=1) + 2 * np.var(arms['b'], ddof=1)) / 5
    by_hand += np.var(arms['c'], ddof=1) / 5
    assert known.unsteady == ('d',) and known.freedom == 5
    assert known.floor == pytest.approx(by_hand**0.5)
    assert known.reach == pytest.approx(stats.t.ppf(0.975, 5) * known.floor * (2 / 3) ** 0.5)
    differences = np.subtract(arms['b'], arms['a']), np.subtract(arms['c'], arms['a'][:2])
    paired = (2 * np.var(differences[0], ddof=1) + np.var(differences[1], ddof=1)) / 3
    assert known.paired == pytest.approx(paired**0.5)
    assert interval([1.0]) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_the_noise_floor_is_that_of_the_runs() -> None:
    """Right on average with two seeds too, where the median of deviations is a third too small."""
    rng = np.random.default_rng(0)
    floors, leads = [], []
    for _ in range(60):
        ends = rng.normal(0, 0.5, (8, 2))
        known = noise(sweep_of({f'a{j}': [*e] for j, e in enumerate(ends)}))
        floors.append(known.floor**2)
        leads.append(ends.mean(1).max() - known.luck)
        assert known.unsteady == ()
    # Four standard errors of the mean of 60 variances with 8 degrees of freedom each.
    assert np.mean(floors) == pytest.approx(0.25, abs=4 * 0.25 * (2 / 8 / 60) ** 0.5)
    assert np.mean(leads) == pytest.approx(0, abs=4 * np.std(leads) / 60**0.5 + 0.02)


@pytest.mark.parametrize(('effect', 'seeds'), [(0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_seeds_needed_are_those_of_power_tables(effect, seeds) -> None:
    """G*Power 3 (Faul et al. 2007): one-sample t-test, two tails, level 0.05, power 0.8."""
    assert seeds_needed(effect) == seeds
    assert power(seeds, effect) >= 0.8 > power(seeds - 1, effect)


def test_how_often_a_difference_is_found() -> None:
    draws = np.random.default_rng(0).normal(1.2, 1, (4000, 6))
    p = stats.ttest_1samp(draws, 0, axis=1).pvalue
    assert power(6, 1.2) == pytest.approx(np.mean(p < 0.05), abs=0.025)
    assert seeds_needed(0.001) == 0  # a thousand would not do


def test_sentences_of_what_cannot_be_said() -> None:
    one = sweep_of({'a': [1.0], 'b': [0.9]})
    assert 'Too few seeds for a verdict' in verdict(one, compare(one))
    same = sweep_of({'a': [1.0, 1.1, 0.9], 'b': [1.1, 0.9, 1.0]})
    assert 'No arm is distinguishably better than a' in verdict(same, compare(same))
    lost = sweep_of({'a': [math.nan] * 3, 'b': [0.9] * 3})
    assert 'The baseline a has not finished' in verdict(lost, compare(lost))
    assert verdict(lost, []) == 'No arm has finished yet.'


def test_the_best_by_its_mean_is_named_beside_the_one_that_is_better() -> None:
    values = {'base': [1.0, 1.1, 1.2], 'sure': [0.9, 1.01, 1.1], 'lucky': [0.2]}
    found = sweep_of({k: v + [math.nan] * (3 - len(v)) for k, v in values.items()})
    said = verdict(found, compare(found))
    assert 'sure is better than base' in said and 'after correction for 1 arm)' in said
    assert said.endswith('Best by its mean is lucky with 0.2000: too few seeds.')


def test_how_many_seeds_would_tell_is_said() -> None:
    base, other = [1.0, 1.1, 1.2, 1.05], [0.9, 1.12, 1.15, 1.0]
    found = sweep_of({'base': base, 'other': other})
    compared, known = compare(found), noise(found)
    effect = np.mean(np.subtract(other, base)) / np.std(np.subtract(other, base), ddof=1)
    needed = compared[1].needed(known)
    assert power(needed, effect) >= 0.8 > power(needed - 1, effect)
    assert f'{needed} seeds of it and of the baseline would show it' in verdict(found, compared)
    assert compared[0].needed(known) == 0
