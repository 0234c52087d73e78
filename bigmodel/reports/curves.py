"""Learning curves: the metric by step, all of it and the end of it."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt

from bigmodel.reports.gathered import Arm, Gathered
from bigmodel.reports.pictures import GREY, colours, label, legend, limit_to_most, ranked
from bigmodel.reports.statistics import Compared

ENOUGH = 6  # points of which the last half is worth a picture of its own


def curves(found: Gathered, compared: Sequence[Compared]) -> Any:
    """Means over seeds with a band from the least to the most; None where nothing has two points.

    Of an arm, finished runs alone are drawn, so that no mean jumps where a run ends; without any,
    all of its runs are, with dashes.
    """
    arms = [arm for arm in ranked(found) if any(len(run.curve) > 1 for run in arm.shown)]
    if not arms:
        return None
    points = {arm.name: _by_step(arm) for arm in arms}
    last = max(step for by_step in points.values() for step in by_step)
    zoomed = max(map(len, points.values())) >= ENOUGH
    figure, axes = plt.subplots(
        1, 1 + zoomed, figsize=(6 + 5 * zoomed, 4), squeeze=False, layout='constrained'
    )
    for ax, first in zip(axes[0], (0, last // 2), strict=False):
        handles = _draw(ax, found, arms, points, first)
        ax.set(xlabel='step' if not first else 'step (the last half)')
        ax.grid(alpha=0.3)
    axes[0][0].set(ylabel=found.metric)
    legend(axes[0][-1], handles, [handle.get_label() for handle in handles])
    return figure


def _draw(
    ax: Any, found: Gathered, arms: Sequence[Arm], points: dict[str, dict], first: int
) -> list[Any]:
    """Draws the curves from a step on; returns the lines with names, the best first."""
    coloured, handles, grey = colours(found), [], []
    for arm in reversed(arms):
        by_step = {step: v for step, v in points[arm.name].items() if step >= first}
        means = [statistics.fmean(v) for v in by_step.values()]
        style = '-' if arm.done else '--'
        if arm.name not in coloured:
            grey = ax.plot(by_step.keys(), means, style, color=GREY, lw=0.8, zorder=1)
            continue
        colour, name = coloured[arm.name], label(found, arm)
        handles += ax.plot(by_step.keys(), means, style, color=colour, label=name, lw=1.5)
        low, high = [*map(min, by_step.values())], [*map(max, by_step.values())]
        ax.fill_between([*by_step], low, high, color=colour, alpha=0.15, linewidth=0)
    seen = [v for by in points.values() for step, vs in by.items() if step >= first for v in vs]
    limit_to_most(ax, seen, found.sign)
    for line in grey[-1:]:
        line.set_label(f'{len(arms) - len(handles)} others')
    return handles[::-1] + grey[-1:]


def _by_step(arm: Arm) -> dict[int, list[float]]:
    """The values of its runs at each step that has any, finite ones alone."""
    points: dict[int, list[float]] = {}
    for run in arm.shown:
        for step, value in run.curve:
            if math.isfinite(value):
                points.setdefault(step, []).append(value)
    return dict(sorted(points.items()))
