"""The pictures of a report: learning curves, differences, cost, factors, searches."""

import itertools
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt

from bigmodel.reports.gathered import Arm, Gathered, Run
from bigmodel.reports.statistics import Compared

MOST_CURVES = 9  # arms with a colour of their own; the others are grey
MOST_LABELS = 16
GREY = '0.75'


def draw(
    found: Gathered, compared: Sequence[Compared], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Draws what there is something to draw of; title -> PNG, in reading order."""
    makers: Mapping[str, tuple[str, Callable[..., Any]]] = {
        'Differences from the baseline': ('differences', _differences),
        'Learning curves': ('curves', _curves),
        'What it costs': ('cost', _cost),
        'Factors': ('factors', _factors),
        'Search': ('search', _search),
    }
    drawn = {}
    for title, (name, make) in makers.items():
        figure = make(found, compared)
        if figure is not None:
            drawn[title] = folder / f'{name}.png'
            figure.savefig(drawn[title], dpi=120, bbox_inches='tight')
            plt.close(figure)
    return drawn


def ranked(found: Gathered) -> list[Arm]:
    """Arms that have a value, the best first; that of an arm is the mean of its runs."""
    means = {arm.name: _mean(arm) for arm in found.arms}
    there = [arm for arm in found.arms if not math.isnan(means[arm.name])]
    return sorted(there, key=lambda arm: -found.sign * means[arm.name])


def _mean(arm: Arm) -> float:
    """Of the finished runs, else of all that have a value."""
    runs = list(arm.done.values()) or [r for r in arm.runs if not math.isnan(r.value)]
    return statistics.fmean(run.value for run in runs) if runs else math.nan


def _differences(found: Gathered, compared: Sequence[Compared]) -> Any:
    """A forest plot: the difference of each arm with its interval."""
    rows = [c for c in compared if not math.isnan(c.difference)]
    rows.sort(key=lambda c: found.sign * c.difference)
    if not rows:
        return None
    colours = {'better': 'tab:green', 'worse': 'tab:red'}
    figure, ax = plt.subplots(figsize=(7, 1.2 + 0.28 * len(rows)))
    for y, c in enumerate(rows):
        colour = colours.get(c.verdict, '0.45')
        if not math.isnan(c.low):
            ax.plot([c.low, c.high], [y, y], color=colour, linewidth=1.6)
        ax.plot([c.difference], [y], 'o', color=colour, markersize=5)
    ax.axvline(0, color='0.2', linewidth=0.8)
    ax.set_yticks(range(len(rows)), [c.arm.name for c in rows])
    _limit_to_points(ax, [c.difference for c in rows])
    way = 'right' if found.sign > 0 else 'left'
    ax.set(xlabel=f'{found.metric} minus that of {found.baseline} (better: {way})')
    ax.grid(axis='x', alpha=0.3)
    return figure


def _limit_to_points(ax: Any, points: Sequence[float]) -> None:
    """Intervals of two seeds are so wide that they would hide the points: they are cut off."""
    low, high = min([*points, 0.0]), max([*points, 0.0])
    margin = 1.5 * (high - low) or 1e-3
    old = ax.get_xlim()
    ax.set_xlim(max(old[0], low - margin), min(old[1], high + margin))


def _curves(found: Gathered, compared: Sequence[Compared]) -> Any:
    """The metric by step: means over seeds, and a band from the least to the most."""
    arms = [arm for arm in ranked(found) if any(len(run.curve) > 1 for run in arm.runs)]
    if not arms:
        return None
    shown = [arm.name for arm in arms if arm.name != found.baseline][: MOST_CURVES - 1]
    figure, ax = plt.subplots(figsize=(7, 4.5))
    colours = itertools.cycle(plt.cm.tab10.colors)
    for arm in reversed(arms):
        points = _by_step(arm)
        steps, values = [*points], [*points.values()]
        means = [statistics.fmean(v) for v in values]
        if arm.name not in shown and arm.name != found.baseline:
            ax.plot(steps, means, color=GREY, linewidth=0.8, zorder=1)
            continue
        colour = 'black' if arm.name == found.baseline else next(colours)
        label = arm.name + (' (baseline)' if arm.name == found.baseline else '')
        ax.plot(steps, means, color=colour, label=label, marker='.', linewidth=1.4)
        if max(map(len, values)) > 1:
            ax.fill_between(
                steps, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.15
            )
    handles, labels = ax.get_legend_handles_labels()
    handles, labels = handles[::-1], labels[::-1]  # the best first
    if len(arms) > len(labels):
        handles += ax.plot([], [], color=GREY)
        labels.append('others')
    ax.legend(handles, labels, fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5))
    ax.set(xlabel='step', ylabel=found.metric)
    _limit_to_most(ax, [v for arm in arms for vs in _by_step(arm).values() for v in vs])
    ax.grid(alpha=0.3)
    return figure


def _by_step(arm: Arm) -> dict[int, list[float]]:
    """The values of all runs at each step that has any, finite ones alone."""
    points: dict[int, list[float]] = {}
    for run in arm.runs:
        for step, value in run.curve:
            if math.isfinite(value):
                points.setdefault(step, []).append(value)
    return dict(sorted(points.items()))


def _limit_to_most(ax: Any, values: Sequence[float]) -> None:
    """A run that diverged must not flatten the others."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    middle = ordered[int(0.95 * (len(ordered) - 1))]
    if high > middle + 2 * (middle - low):
        ax.set_ylim(top=middle + 0.3 * (middle - low), bottom=low - 0.05 * (middle - low))


def _cost(found: Gathered, compared: Sequence[Compared]) -> Any:
    """The metric against training FLOPs, parameters and seconds, of the means of arms."""
    arms = [arm for arm in ranked(found) if arm.done]
    reads: dict[str, Callable[[Run], float]] = {
        'training FLOPs': lambda run: run.flops,
        'parameters': lambda run: float(run.facts.get('num_params', 0)),
        'seconds': lambda run: float(run.facts['seconds']),
    }
    costs = {
        words: {a.name: statistics.fmean(map(read, a.done.values())) for a in arms}
        for words, read in reads.items()
    }
    costs = {w: xs for w, xs in costs.items() if xs and max(xs.values()) > 1.01 * min(xs.values())}
    if not costs:  # all cost the same
        return None
    figure, axes = plt.subplots(
        1, len(costs), figsize=(4 * len(costs) + 1, 3.6), sharey=True, squeeze=False
    )
    axes = axes[0]
    for ax, (words, xs) in zip(axes, costs.items(), strict=True):
        for i, arm in enumerate(arms):
            values = [run.value for run in arm.done.values()]
            colour = 'black' if arm.name == found.baseline else plt.cm.tab20.colors[i % 20]
            mean = statistics.fmean(values)
            label = arm.name if i < MOST_LABELS or arm.name == found.baseline else None
            ax.errorbar(
                xs[arm.name],
                mean,
                [[mean - min(values)], [max(values) - mean]],
                fmt='o',
                color=colour,
                markersize=5,
                label=label,
            )
        ax.set(xlabel=words)
        ax.grid(alpha=0.3)
        low, high = ax.get_xlim()
        if low > 0 and high > 8 * low:
            ax.set_xscale('log')
    axes[0].set(ylabel=found.metric)
    _limit_to_most(axes[0], [run.value for arm in arms for run in arm.done.values()])
    axes[-1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1.01, 0.5))
    return figure


def _factors(found: Gathered, compared: Sequence[Compared]) -> Any:
    """Of a grid: the metric by the values of one key, a line for each value of another."""
    keys = _grid_keys(found)
    if not keys:
        return None
    figure, axes = plt.subplots(1, len(keys), figsize=(4.6 * len(keys), 3.8), squeeze=False)
    for ax, key in zip(axes[0], keys, strict=True):
        others = [k for k in keys if k != key]
        lines: dict[str, list[tuple[Any, float]]] = {}
        for arm in found.arms:
            mean = _mean(arm)
            if math.isfinite(mean):
                label = ', '.join(str(arm.changes[k]) for k in others[:1])
                lines.setdefault(label, []).append((arm.changes[key], mean))
        _lines(ax, key, lines, others)
        ax.set(xlabel=key, ylabel=found.metric)
        _limit_to_most(ax, [v for points in lines.values() for _, v in points])
        ax.grid(alpha=0.3)
    figure.subplots_adjust(wspace=0.3)
    return figure


def _grid_keys(found: Gathered) -> list[str]:
    """Keys that every arm sets, with a few values each that come together in several ways."""
    keys = [k for k in found.varied if all(k in arm.changes for arm in found.arms)]
    counts = {k: len({repr(arm.changes[k]) for arm in found.arms}) for k in keys}
    keys = [k for k in keys if 1 < counts[k] < len(found.arms)]
    return keys if 2 <= len(keys) <= 4 else []


def _lines(ax: Any, key: str, lines: Mapping[str, list], others: Sequence[str]) -> None:
    """Means over what else differs, by value; numbers on an axis of numbers, else by name."""
    values = list(dict.fromkeys(value for points in lines.values() for value, _ in points))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    order = sorted(values) if numeric else values
    for label, points in lines.items():
        means = {
            v: statistics.fmean(y for x, y in points if x == v) for v in order if v in dict(points)
        }
        xs = [v if numeric else order.index(v) for v in means]
        ax.plot(xs, [*means.values()], marker='o', label=label or None, linewidth=1.3)
    if not numeric:
        ax.set_xticks(range(len(order)), [str(v)[:24] for v in order], rotation=20, ha='right')
    elif min(order) > 0 and max(order) >= 8 * min(order):
        ax.set_xscale('log')
    if others and len(lines) > 1:
        ax.legend(title=others[0].split('.')[-1], fontsize=7, title_fontsize=7)


def _search(found: Gathered, compared: Sequence[Compared]) -> Any:
    """Parallel coordinates: a line for each arm through its values, coloured by the metric."""
    arms = [arm for arm in ranked(found) if math.isfinite(_mean(arm))]
    keys = [
        k
        for k in found.varied
        if all(isinstance(a.changes.get(k), int | float) for a in arms)
        and len({a.changes[k] for a in arms}) > 4
    ]
    if len(keys) < 2 or len(arms) < 8:
        return None
    columns = {key: _scaled([float(arm.changes[key]) for arm in arms]) for key in keys}
    best_first = [i / max(len(arms) - 1, 1) for i in range(len(arms))]
    columns[found.metric] = _scaled([_mean(arm) for arm in arms], log=False)
    figure, ax = plt.subplots(figsize=(2.2 * len(columns) + 1, 4.2))
    for i in reversed(range(len(arms))):
        ys = [positions[i] for positions, _ in columns.values()]
        colour = plt.cm.viridis(1 - best_first[i])
        ax.plot(range(len(columns)), ys, color=colour, alpha=0.75, linewidth=1.2)
    for x, (_, (low, high)) in enumerate(columns.values()):
        ax.axvline(x, color='0.3', linewidth=0.8)
        ax.text(x, -0.03, f'{low:.3g}', ha='center', va='top', fontsize=8)
        ax.text(x, 1.03, f'{high:.3g}', ha='center', va='bottom', fontsize=8)
    ax.set_xticks(range(len(columns)), [key.split('.')[-1] for key in columns])
    ax.tick_params(axis='x', pad=16, length=0)
    ax.set(yticks=[], ylim=(-0.02, 1.02))
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title('a line an arm; yellow is best', fontsize=9, pad=20)
    return figure


def _scaled(values: Sequence[float], log: bool = True) -> tuple[list[float], tuple[float, float]]:
    """Values from 0 to 1, by their logarithms where they span more than a factor of eight, and
    the least and the most of them.
    """
    low, high = min(values), max(values)
    if log and low > 0 and high > 8 * low:
        logs = [math.log(v) for v in values]
        return _scaled(logs, log=False)[0], (low, high)
    return [(v - low) / ((high - low) or 1) for v in values], (low, high)
