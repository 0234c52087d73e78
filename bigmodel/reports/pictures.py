"""The pictures of a report: which there are, and what all of them share."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib import ticker

from bigmodel.reports.gathered import Arm, Gathered

MOST_COLOURS = 9  # arms with a colour of their own; the others are grey
GREY = '0.72'
LONGEST = 44


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure and forgets it."""
    figure.savefig(path, dpi=120, bbox_inches='tight')
    plt.close(figure)


def ranked(found: Gathered) -> list[Arm]:
    """Arms that have a value, the best first; that of an arm is the mean of its runs."""
    there = [arm for arm in found.arms if math.isfinite(arm.mean)]
    return sorted(there, key=lambda arm: -found.sign * arm.mean)


def colours(found: Gathered) -> dict[str, Any]:
    """Black for the baseline, a colour for each of the best others; the rest have none."""
    others = [arm.name for arm in ranked(found) if arm.name != found.baseline]
    own = zip(others[: MOST_COLOURS - 1], plt.cm.tab10.colors, strict=False)
    return {found.baseline: 'black', **dict(own)}


def label(found: Gathered, arm: Arm) -> str:
    """Its name, shortened, and what a reader must know of it."""
    marks = ['baseline'] * (arm.name == found.baseline)
    marks += [] if arm.done else [arm.outcome]
    return short(arm.name) + (f' ({", ".join(marks)})' if marks else '')


def short(name: str) -> str:
    """A long name without its middle: its end has the digest that tells it from others."""
    return name if len(name) <= LONGEST else f'{name[: LONGEST - 8]}…{name[-7:]}'


def legend(ax: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """To the right of the axes, where it hides nothing."""
    ax.legend(handles, labels, fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5))


def limit_to_most(ax: Any, values: Sequence[float | int], sign: int) -> None:
    """A run that diverged must not flatten the others: the worst may leave the picture."""
    ordered = sorted(-sign * v for v in values)  # from the best
    best, middle, worst = ordered[0], ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]
    if worst > middle + 2 * (middle - best) > best:
        ends = best - 0.05 * (middle - best), middle + 0.3 * (middle - best)
        ax.set_ylim(*sorted(-sign * end for end in ends))


def spans_decades(values: Sequence[float | int]) -> bool:
    """Whether an axis of these is read better by their logarithms."""
    return min(values) > 0 and max(values) >= 12 * min(values)


def log_axis(axis: Any) -> None:
    """A logarithmic axis with labels that do not run into each other."""
    getattr(axis.axes, f'set_{axis.axis_name}scale')('log')
    axis.set_minor_formatter(ticker.NullFormatter())
