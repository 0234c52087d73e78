"""Of arms in which several keys vary together: the best one of each value of a key."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bigmodel.reports.gathered import Arm, Gathered
from bigmodel.reports.noise import Noise, noise
from bigmodel.reports.statistics import interval
from bigmodel.reports.table import number

NOTE = (
    'Best by the mean over finished seeds, with the 95 % interval of Student’s t for that mean. '
    'The same runs have chosen it, so its value is too good: by about as much as the best of so '
    'many equal arms leads their mean (by luck). Lowest and highest: at an end of what was tried, '
    'beyond which it may be better still.'
)


@dataclasses.dataclass(frozen=True)
class Best:
    """A table of text: the best arm of each value of `factor`, the best one first."""

    factor: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def bests(found: Gathered) -> list[Best]:
    """A table for each key of which at least two values have several arms that have finished.

    Keys that change together are one factor.
    """
    factors: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for key in found.varied:
        groups = _groups(found, [key])
        factors.setdefault(tuple(tuple(a.name for a in arms) for arms in groups), []).append(key)
    known, each = noise(found), list(factors.values())
    return [
        _best(found, known, keys, [k for other in each if other is not keys for k in other])
        for keys in each
        if sum(len(_finished(arms)) > 1 for arms in _groups(found, keys)) > 1
    ]


def _best(found: Gathered, known: Noise, keys: Sequence[str], others: Sequence[str]) -> Best:
    groups = [arms for arms in _groups(found, keys) if _finished(arms)]
    groups.sort(key=lambda arms: -found.sign * _top(found, arms).mean)
    factor = ', '.join(keys)
    heads = (factor, found.metric, '95 % interval', 'seeds', *others, 'best of', 'by luck')
    return Best(factor, heads, tuple(_row(found, known, keys, others, arms) for arms in groups))


def _row(
    found: Gathered,
    known: Noise,
    keys: Sequence[str],
    others: Sequence[str],
    arms: Sequence[Arm],
) -> tuple[str, ...]:
    best, tried = _top(found, arms), _finished(arms)
    low, high = interval([run.value for run in best.done.values()])
    return (
        ', '.join(str(best.setting(key)) for key in keys),
        number(best.mean),
        '' if math.isnan(low) else f'{number(low)} to {number(high)}',
        str(len(best.done)),
        *(_setting(best, tried, key) for key in others),
        f'{len(tried)}' if len(tried) == len(arms) else f'{len(tried)} ({len(arms)} planned)',
        number(known.luck_of(len(tried), len(best.done))),
    )


def _setting(best: Arm, tried: Sequence[Arm], key: str) -> str:
    """Its value, and whether that is an end of the numbers that were tried."""
    value, values = best.setting(key), [arm.setting(key) for arm in tried]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric or min(values) == max(values):
        return str(value)
    ends = {min(values): ' (lowest)', max(values): ' (highest)'}
    return f'{value}{ends.get(value, "")}'


def _groups(found: Gathered, keys: Sequence[str]) -> list[list[Arm]]:
    """The arms of each value."""
    groups: dict[str, list[Arm]] = {}
    for arm in found.arms:
        value: list[Any] = [arm.setting(key) for key in keys]
        groups.setdefault(repr(value), []).append(arm)
    return list(groups.values())


def _finished(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.done]


def _top(found: Gathered, arms: Sequence[Arm]) -> Arm:
    return max(_finished(arms), key=lambda arm: found.sign * arm.mean)
