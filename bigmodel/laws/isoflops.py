"""Iso-FLOP profiles (Hoffmann et al. 2022, §3.2): which size is best for each budget."""

import dataclasses
from collections.abc import Sequence

import numpy as np

SAME = 0.1  # relative difference of FLOPs within a profile


@dataclasses.dataclass(frozen=True)
class Profile:
    """Runs of one budget; `best` is the size at the minimum of a parabola in log N, or 0 when the
    minimum is not between the sizes that were run.
    """

    flops: float
    points: tuple[tuple[float, float], ...]  # (parameters, loss), by size
    parabola: tuple[float, float, float]  # of the loss in log N, the highest power first
    best: float


def profiles(
    parameters: Sequence[float], flops: Sequence[float], losses: Sequence[float]
) -> list[Profile]:
    """Groups of at least three sizes with nearly the same FLOPs; those of one size are averaged."""
    order = np.argsort(flops)
    groups: list[list[int]] = []
    for i in order:
        if groups and flops[i] <= flops[groups[-1][0]] * (1 + SAME):
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    found = []
    for group in groups:
        sizes = sorted({parameters[i] for i in group})
        if len(sizes) >= 3:
            means = [np.mean([losses[i] for i in group if parameters[i] == n]) for n in sizes]
            found.append(_profile(float(np.mean([flops[i] for i in group])), sizes, means))
    return found


def _profile(flops: float, sizes: Sequence[float], losses: Sequence[float]) -> Profile:
    logs = np.log(sizes)
    square, linear, constant = (float(x) for x in np.polyfit(logs, losses, 2))
    lowest = -linear / (2 * square) if square > 0 else -np.inf
    inside = logs[0] <= lowest <= logs[-1]
    points = tuple((float(n), float(v)) for n, v in zip(sizes, losses, strict=True))
    best = float(np.exp(lowest)) if inside else 0.0
    return Profile(flops, points, (square, linear, constant), best)


def exponent(found: Sequence[Profile]) -> float:
    """a of N_opt ∝ C^a over the profiles whose minimum was found; NaN of fewer than two."""
    known = [(np.log(p.flops), np.log(p.best)) for p in found if p.best]
    return float(np.polyfit(*zip(*known, strict=True), 1)[0]) if len(known) > 1 else float('nan')
