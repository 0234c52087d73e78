"""How far the coefficients would be off, had there been other runs (Efron 1979)."""

from collections.abc import Iterator, Sequence

import numpy as np

from bigmodel.laws.law import Law
from bigmodel.laws.parametric import Problem, distinct, one_thread
from bigmodel.laws.points import Points
from bigmodel.laws.profiles import Power, budgets, powers, profile

LEVEL = 0.95
TRIES = 20  # resamples for each that has enough sizes and tokens


def laws(points: Points, law: Law, count: int, seed: int = 0) -> list[Law]:
    """Laws fitted to `count` resamples of the runs, each begun at that of all runs."""
    problems = map(Problem, _resamples(points, count, seed))
    with one_thread():
        return [problem.law(problem.solve([problem.coefficients(law)])) for problem in problems]


def _resamples(points: Points, count: int, seed: int) -> Iterator[Points]:
    """Resamples that a law can be fitted to."""
    draw, made = np.random.default_rng(seed), 0
    for _ in range(TRIES * count):
        chosen = points.chosen(draw.integers(len(points), size=len(points)))
        if made < count and min(distinct(chosen)) >= 3:
            made += 1
            yield chosen


def optima(points: Points, count: int, seed: int = 0) -> list[tuple[Power, Power]]:
    """Power laws of the optima of resamples, drawn within each budget; some have none."""
    draw, groups, found = np.random.default_rng(seed), budgets(points), []
    for _ in range(count):
        drawn = [draw.choice(runs, size=len(runs)).tolist() for runs in groups]
        made = powers([p for p in (profile(points, runs) for runs in drawn) if p and p.inside])
        found += [made] if made else []
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the values; NaN where there are none."""
    if not len(values):
        return float('nan'), float('nan')
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
