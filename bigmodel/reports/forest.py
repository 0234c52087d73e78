"""A forest plot: the difference of each arm to the baseline with its interval."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt

from bigmodel.reports.gathered import Gathered
from bigmodel.reports.noise import noise
from bigmodel.reports.pictures import short
from bigmodel.reports.statistics import Compared

MOST = 40  # arms: the best of more
COLOURS = {'better': 'tab:green', 'worse': 'tab:red'}


def forest(found: Gathered, compared: Sequence[Compared]) -> Any:
    """None without a difference; the band is where two equal arms would be."""
    known = [c for c in compared if not math.isnan(c.difference)]
    rows = sorted(known, key=lambda c: -found.sign * c.difference)[:MOST][::-1]
    if not rows:
        return None
    figure, ax = plt.subplots(figsize=(7.5, 1.3 + 0.26 * len(rows)))
    reach = noise(found).reach
    if math.isfinite(reach):
        ax.axvspan(-reach, reach, color='0.92', zorder=0)
    for y, c in enumerate(rows):
        colour = COLOURS.get(c.verdict, '0.4')
        if not math.isnan(c.low):
            ax.plot([c.low, c.high], [y, y], color=colour, linewidth=1.6)
        ax.plot([c.difference], [y], 'o', color=colour, markersize=5)
    ax.axvline(0, color='0.2', linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f'{short(c.arm.name)}  (n = {c.seeds})' for c in rows])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    _limit_to_points(ax, [c.difference for c in rows])
    way = 'right' if found.sign > 0 else 'left'
    ax.set(xlabel=f'{found.metric} minus that of {short(found.baseline)}; better is {way}')
    few = f'the {MOST} best of {len(known)}; ' if len(known) > MOST else ''
    title = f'{few}95 % intervals; green: better, red: worse after correction'
    if math.isfinite(reach):
        title += '\ngrey band: where two equal arms are 19 times of 20'
    ax.set_title(title, fontsize=9)
    ax.grid(axis='x', alpha=0.3)
    return figure


def _limit_to_points(ax: Any, points: Sequence[float]) -> None:
    """Intervals of two seeds are so wide that they would hide the points: they are cut off."""
    low, high = min([*points, 0.0]), max([*points, 0.0])
    margin = 1.2 * (high - low) or 1e-3
    old = ax.get_xlim()
    ax.set_xlim(max(old[0], low - margin), min(old[1], high + margin))
