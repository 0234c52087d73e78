"""What an arm costs, and what it gets for that."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib import ticker

from bigmodel.reports.gathered import Arm, Gathered, Run
from bigmodel.reports.pictures import (
    GREY,
    colours,
    label,
    legend,
    limit_to_most,
    log_axis,
    ranked,
    spans_decades,
)
from bigmodel.reports.statistics import Compared

READ: dict[str, Callable[[Run], float]] = {
    'training FLOPs': lambda run: run.flops,
    'parameters': lambda run: float(run.facts.get('num_params', 0)),
    'seconds': lambda run: float(run.facts['seconds']),
}


def costs(found: Gathered, compared: Sequence[Compared]) -> Any:
    """The metric against training FLOPs, parameters and seconds, of the means of finished arms.

    Bars go from the worst to the best seed; the line is the best for its cost. None where all cost
    the same.
    """
    arms = [arm for arm in ranked(found) if arm.done]
    read = {
        words: {arm.name: statistics.fmean(map(of, arm.done.values())) for arm in arms}
        for words, of in READ.items()
    }
    read = {w: xs for w, xs in read.items() if xs and max(xs.values()) > 1.01 * min(xs.values())}
    if not read:
        return None
    width = 3.8 * len(read) + 1
    figure, axes = plt.subplots(
        1, len(read), figsize=(width, 3.6), sharey=True, squeeze=False, layout='constrained'
    )
    for ax, (words, xs) in zip(axes[0], read.items(), strict=True):
        _points(ax, found, arms, xs)
        _frontier(ax, found, arms, xs)
        ax.set(xlabel=words)
        ax.grid(alpha=0.3)
        if spans_decades([*xs.values()]):
            log_axis(ax.xaxis)
        else:
            ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
            ax.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes[0][0].set(ylabel=found.metric)
    values = [run.value for arm in arms for run in arm.done.values()]
    limit_to_most(axes[0][0], values, found.sign)
    handles, labels = axes[0][-1].get_legend_handles_labels()
    legend(axes[0][-1], handles, labels)
    return figure


def _points(ax: Any, found: Gathered, arms: Sequence[Arm], xs: dict[str, float]) -> None:
    coloured = colours(found)
    others = [arm for arm in arms if arm.name not in coloured]
    for arm in arms:
        values = [run.value for run in arm.done.values()]
        colour = coloured.get(arm.name, GREY)
        name = label(found, arm) if arm.name in coloured else None
        if others and arm is others[0]:
            name = f'{len(others)} others'
        error = [[arm.mean - min(values)], [max(values) - arm.mean]]
        order = 3 if arm.name in coloured else 2
        ax.errorbar(
            xs[arm.name], arm.mean, error, fmt='o', color=colour, ms=5, label=name, zorder=order
        )


def _frontier(ax: Any, found: Gathered, arms: Sequence[Arm], xs: dict[str, float]) -> None:
    """A line through the arms that nothing cheaper beats."""
    best: list[Arm] = []
    for arm in sorted(arms, key=lambda arm: (xs[arm.name], -found.sign * arm.mean)):
        if not best or found.sign * (arm.mean - best[-1].mean) > 0:
            best.append(arm)
    if len(best) > 1:
        places = [xs[arm.name] for arm in best], [arm.mean for arm in best]
        ax.plot(*places, ':', color='0.35', lw=1.1, zorder=1, label='best for its cost')
