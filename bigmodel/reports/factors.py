"""Of a grid: what each factor does on average, and how it depends on the others."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt

from bigmodel.reports.gathered import Arm, Gathered
from bigmodel.reports.pictures import limit_to_most, log_axis, ranked, spans_decades
from bigmodel.reports.statistics import Compared

MOST = 4  # factors of which pictures are drawn


def factors(found: Gathered, compared: Sequence[Compared]) -> Any:
    """Each factor alone, a point an arm, the line through means over the others; then interactions,
    a line for each value of the second factor. None where arms are no grid.
    """
    keys = factor_keys(found)
    arms = ranked(found)
    if not keys or not arms:
        return None
    pairs = [_longer_first(found, pair) for pair in itertools.combinations(keys, 2)]
    count = len(keys) + len(pairs)
    columns = count if count <= 3 else len(keys)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.5 * rows), squeeze=False, layout='constrained'
    )
    panels = iter(axes.flat)
    for key in keys:
        _alone(next(panels), found, arms, key)
    for pair in pairs:
        _together(next(panels), found, arms, *pair)
    for ax in panels:
        ax.set_axis_off()
    return figure


def factor_keys(found: Gathered) -> list[str]:
    """Keys whose values come together in most of the ways they can; one numeric key is enough."""
    keys = list(found.varied)
    values = {k: {repr(arm.setting(k)) for arm in found.arms} for k in keys}
    if len(keys) == 1:
        return keys if len(values[keys[0]]) > 2 and _numeric(found, keys[0]) else []
    ways = math.prod(map(len, values.values()))
    return keys if 2 <= len(keys) <= MOST and ways <= 1.5 * len(found.arms) else []


def _alone(ax: Any, found: Gathered, arms: Sequence[Arm], key: str) -> None:
    place = _axis(ax, found, key)
    ax.plot([place(arm) for arm in arms], [arm.mean for arm in arms], 'o', color='0.7', ms=4)
    _line(ax, arms, place, color='black', marker='o')
    _finish(ax, found, arms, key)


def _together(ax: Any, found: Gathered, arms: Sequence[Arm], key: str, other: str) -> None:
    place = _axis(ax, found, key)
    groups = _values(found, other)
    for i, value in enumerate(groups):
        own = [arm for arm in arms if arm.setting(other) == value]
        numeric = _numeric(found, other)
        colour = plt.cm.viridis(0.9 * i / len(groups)) if numeric else plt.cm.tab10.colors[i % 10]
        _line(ax, own, place, color=colour, marker='o', label=str(value)[:24])
    ax.legend(title=_end(other), fontsize=7, title_fontsize=7)
    _finish(ax, found, arms, key)


def _line(ax: Any, arms: Sequence[Arm], place: Any, **style: Any) -> None:
    """Through the means of arms that are at one place; bars are a standard deviation of seeds."""
    by_place: dict[float, list[Arm]] = {}
    for arm in arms:
        by_place.setdefault(place(arm), []).append(arm)
    xs = sorted(by_place)
    ys = [statistics.fmean(arm.mean for arm in by_place[x]) for x in xs]
    own = [by_place[x][0].deviation if len(by_place[x]) == 1 else math.nan for x in xs]
    ax.errorbar(xs, ys, own, linewidth=1.4, markersize=4.5, capsize=2, **style)


def _axis(ax: Any, found: Gathered, key: str) -> Any:
    """Prepares the axis of `key`; returns the place on it of an arm."""
    values = _values(found, key)
    if _numeric(found, key):
        if spans_decades(values):
            log_axis(ax.xaxis)
        return lambda arm: arm.setting(key)
    names = [str(value) for value in values]
    shown = [name if len(name) <= 18 else f'{name[:17]}…' for name in names]
    slanted = {'rotation': 25, 'ha': 'right'} if sum(map(len, shown)) > 28 else {}
    ax.set_xticks(range(len(names)), shown, **slanted)
    ax.margins(x=0.12)
    return lambda arm: names.index(str(arm.setting(key)))


def _finish(ax: Any, found: Gathered, arms: Sequence[Arm], key: str) -> None:
    ax.set(xlabel=key, ylabel=found.metric)
    ax.grid(alpha=0.3)
    limit_to_most(ax, [arm.mean for arm in arms], found.sign)


def _values(found: Gathered, key: str) -> list[Any]:
    values = list(dict.fromkeys(arm.setting(key) for arm in found.arms))
    return sorted(values) if _numeric(found, key) else values


def _numeric(found: Gathered, key: str) -> bool:
    values = [arm.setting(key) for arm in found.arms]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _longer_first(found: Gathered, pair: tuple[str, str]) -> tuple[str, str]:
    """The one with more values goes along the axis."""
    a, b = pair
    return (a, b) if len(_values(found, a)) >= len(_values(found, b)) else (b, a)


def _end(key: str) -> str:
    return '.'.join(key.split('.')[-2:])
