"""Iso-FLOP profiles: of each budget the best size, and how it grows with the budget.

Approach 2 of Hoffmann et al. 2022 (§3.2): a parabola of the loss in log N for each number of FLOPs,
then power laws of the optima.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bigmodel.laws.law import Numbers
from bigmodel.laws.points import Points

SAME = 0.1  # by which the FLOPs of one budget may differ
FEWEST = 3  # sizes of a parabola


@dataclasses.dataclass(frozen=True)
class Profile:
    """One budget: its runs, the parabola of the loss in log N, and the optimum."""

    runs: tuple[int, ...]  # indices
    flops: float
    curve: tuple[float, float, float]  # of log N², log N, 1
    params: float
    tokens: float
    loss: float
    inside: bool  # whether the optimum lies between the smallest and the largest size


@dataclasses.dataclass(frozen=True)
class Power:
    """y = factor·C^exponent."""

    exponent: float
    factor: float

    def __call__(self, flops: Numbers) -> Numbers:
        return self.factor * flops**self.exponent


def budgets(points: Points) -> list[tuple[int, ...]]:
    """The runs of each number of FLOPs (within `SAME`) with at least `FEWEST` sizes."""
    groups: list[list[int]] = []
    for i in np.argsort(points.flops, kind='stable').tolist():
        if groups and points.flops[i] <= points.flops[groups[-1][0]] * (1 + SAME):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [tuple(g) for g in groups if len(set(points.params[g].tolist())) >= FEWEST]


def profile(points: Points, runs: Sequence[int]) -> Profile | None:
    """The parabola of one budget; None where it has no minimum, or there are too few sizes."""
    p = points.chosen(np.array(runs))
    logs = np.log(p.params)
    if len(np.unique(logs)) < FEWEST:
        return None
    middle = logs.mean()  # far from 0, the powers of log N are nearly alike
    square, linear, constant = np.polyfit(logs - middle, p.loss, 2)
    if square <= 0:
        return None
    best = middle - linear / (2 * square)
    # N·D of one budget is nearly the same: the tokens at the optimum lie on this line.
    tokens = np.polyval(np.polyfit(logs - middle, np.log(p.tokens), 1), best - middle)
    return Profile(
        runs=tuple(runs),
        flops=float(np.exp(np.log(p.flops).mean())),
        curve=_moved(float(square), float(linear), float(constant), float(middle)),
        params=float(np.exp(best)),
        tokens=float(np.exp(tokens)),
        loss=float(constant - linear**2 / (4 * square)),
        inside=bool(logs.min() <= best <= logs.max()),
    )


def _moved(square: float, linear: float, constant: float, by: float) -> tuple[float, float, float]:
    """The parabola in x of one in x - by."""
    return square, linear - 2 * square * by, constant - linear * by + square * by**2


def profiles(points: Points) -> list[Profile]:
    """Of every budget that has a minimum inside its sizes."""
    found = [profile(points, runs) for runs in budgets(points)]
    return [p for p in found if p and p.inside]


def powers(found: Sequence[Profile]) -> tuple[Power, Power] | None:
    """N and D of the optimum by FLOPs, straight lines in logarithms; None of one budget alone."""
    if len(found) < 2:
        return None
    logs = np.log([p.flops for p in found])
    n, d = (power(logs, np.log([getattr(p, k) for p in found])) for k in ('params', 'tokens'))
    return n, d


def power(logs: Float[np.ndarray, ' n'], values: Float[np.ndarray, ' n']) -> Power:
    """The power law through logarithms."""
    slope, start = np.polyfit(logs, values, 1)
    return Power(float(slope), float(np.exp(start)))
