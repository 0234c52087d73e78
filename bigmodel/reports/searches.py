"""Of a search: all keys at once as parallel coordinates, and each key alone."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from scipy import stats

from bigmodel.reports.factors import factor_keys
from bigmodel.reports.gathered import Arm, Gathered
from bigmodel.reports.pictures import limit_to_most, log_axis, ranked, spans_decades
from bigmodel.reports.statistics import Compared

FEWEST = 8  # arms
COLUMNS = 4


def parallel(found: Gathered, compared: Sequence[Compared]) -> Any:
    """A line for each arm through its values, coloured by rank; None where it is no search."""
    arms, keys = ranked(found), search_keys(found)
    if not keys:
        return None
    figure, ax = plt.subplots(figsize=(2.2 * len(keys) + 3.2, 4.2))
    columns = [
        _column(ax, x, key, [arm.setting(key) for arm in arms]) for x, key in enumerate(keys)
    ]
    columns.append(_column(ax, len(keys), found.metric, [arm.mean for arm in arms], log=False))
    for rank in reversed(range(len(arms))):
        share = rank / (len(arms) - 1)
        ys = [column[rank] for column in columns]
        style = {'alpha': 0.9 - 0.6 * share, 'linewidth': 1.8 - share, 'zorder': 3 - share}
        ax.plot(range(len(ys)), ys, color=plt.cm.viridis(0.95 * share), **style)
    ax.set_xticks(range(len(columns)), [*(key.split('.')[-1] for key in keys), found.metric])
    ax.tick_params(axis='x', pad=18, length=0)
    ax.set(yticks=[], ylim=(-0.02, 1.02))
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(f'{len(arms)} arms, a line each; the darker the better', fontsize=9, pad=22)
    return figure


def scatter(found: Gathered, compared: Sequence[Compared]) -> Any:
    """The metric by each numeric key, with Spearman's rank correlation; None if no search."""
    arms = ranked(found)
    keys = [key for key in search_keys(found) if _numbers([arm.setting(key) for arm in arms])]
    if not keys:
        return None
    rows, columns = math.ceil(len(keys) / COLUMNS), min(len(keys), COLUMNS)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns, 3.1 * rows),
        sharey=True,
        squeeze=False,
        layout='constrained',
    )
    for ax in axes.flat[len(keys) :]:
        ax.set_axis_off()
    for ax, key in zip(axes.flat, keys, strict=False):
        _scatter(ax, found, arms, key)
    for row in axes:
        row[0].set(ylabel=found.metric)
    return figure


def search_keys(found: Gathered) -> list[str]:
    """The keys that differ, where arms are many and no grid."""
    keys = [key for key in found.varied if len({repr(a.setting(key)) for a in found.arms}) > 1]
    return keys if len(keys) > 1 and len(ranked(found)) >= FEWEST and not factor_keys(found) else []


def _scatter(ax: Any, found: Gathered, arms: Sequence[Arm], key: str) -> None:
    xs, ys = [float(arm.setting(key)) for arm in arms], [arm.mean for arm in arms]
    ax.plot(xs, ys, 'o', color='tab:blue', alpha=0.6, markersize=4)
    ax.plot(xs[:1], ys[:1], '*', color='black', markersize=11)
    if spans_decades(xs):
        log_axis(ax.xaxis)
    limit_to_most(ax, ys, found.sign)
    ax.set(xlabel=key)
    ax.grid(alpha=0.3)
    rho, p = stats.spearmanr(xs, ys)
    ax.set_title(f'rank correlation {rho:+.2f} (p = {p:.2g})', fontsize=9)


def _column(ax: Any, x: int, key: str, values: Sequence[Any], log: bool = True) -> list[float]:
    """Draws one upright axis; returns where each value is on it."""
    ax.axvline(x, color='0.3', linewidth=0.8, zorder=4)
    if not _numbers(values):
        names = sorted({str(value) for value in values})
        for i, name in enumerate(names):
            y = i / (len(names) - 1)
            box = {'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8, 'pad': 1}
            ax.text(x + 0.03, y, name[:18], fontsize=8, va='center', zorder=5, bbox=box)
        return [names.index(str(value)) / (len(names) - 1) for value in values]
    numbers = [float(value) for value in values]
    by_log = log and spans_decades(numbers)
    low, high = min(numbers), max(numbers)
    ax.text(x, -0.03, f'{low:.3g}', ha='center', va='top', fontsize=8)
    ax.text(x, 1.03, f'{high:.3g}' + ' (log)' * by_log, ha='center', va='bottom', fontsize=8)
    scaled = [math.log(n) for n in numbers] if by_log else numbers
    least, most = min(scaled), max(scaled)
    return [(n - least) / ((most - least) or 1) for n in scaled]


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
