"""The answer of a report, in a sentence or two."""

import math
from collections.abc import Sequence

from bigmodel.reports.gathered import Gathered
from bigmodel.reports.noise import Noise, noise
from bigmodel.reports.statistics import FEWEST, VERDICTS, Compared

UNTOLD = ('too few seeds', 'not finished', 'pruned', 'failed', 'baseline')


def verdict(found: Gathered, compared: Sequence[Compared]) -> str:
    """What the finished runs say of the question; never more than they can."""
    finished = [c for c in compared if not math.isnan(c.mean)]
    if not finished:
        return 'No arm has finished yet.'
    best = max(finished, key=lambda c: found.sign * c.mean)
    base = next(c for c in compared if c.verdict == 'baseline')
    if math.isnan(base.mean):
        return (
            f'The baseline {found.baseline} has not finished, so nothing is compared yet; best so '
            f'far is {best.arm.name} with {found.metric} {best.mean:.4f}.'
        )
    if len(compared) == 1:
        return f'{found.baseline} is the only arm: {found.metric} {base.mean:.4f}.'
    better = [c for c in compared if c.verdict == 'better']
    if better:
        top = max(better, key=lambda c: found.sign * c.difference)
        return _won(found, compared, top, base) + _ahead(best, top)
    if all(c.verdict in UNTOLD for c in compared):
        return _untold(found, best, base)
    return (
        f'No arm is distinguishably better than {found.baseline} ({found.metric} '
        f'{base.mean:.4f}): {_counts(compared)}.{_lead(found, best, base)}'
    )


def _won(found: Gathered, compared: Sequence[Compared], top: Compared, base: Compared) -> str:
    others = [c for c in compared if c.verdict != 'baseline']
    tested = sum(not math.isnan(c.q) for c in others)
    return (
        f'{top.arm.name} is better than {found.baseline}: {found.metric} {top.mean:.4f} against '
        f'{base.mean:.4f}, a difference of {top.difference:+.4f} (95 % interval {top.low:+.4f} to '
        f'{top.high:+.4f}, {top.seeds} seeds, {p_words(top.q)} after correction for {tested} '
        f'{"arm" if tested == 1 else "arms"}). Of all {len(others)} compared with it: '
        f'{_counts(compared)}.'
    )


def _ahead(best: Compared, top: Compared) -> str:
    """An arm with a better mean that no verdict stands behind."""
    if best is top:
        return ''
    return f' Best by its mean is {best.arm.name} with {best.mean:.4f}: {best.verdict}.'


def p_words(p: float) -> str:
    """'p = 0.012', 'p < 0.0001'."""
    return f'p = {p:.2g}' if p >= 1e-4 else 'p < 0.0001'


def _untold(found: Gathered, best: Compared, base: Compared) -> str:
    said = f'{found.baseline} has {base.mean:.4f}'
    if best is base:
        return (
            f'Too few seeds for a verdict ({FEWEST} are needed): by its mean the baseline, '
            f'{found.baseline}, is best with {found.metric} {base.mean:.4f}.'
        )
    return (
        f'Too few seeds for a verdict ({FEWEST} are needed): by its mean {best.arm.name} is best '
        f'with {found.metric} {best.mean:.4f}, {said}.{_more(found, best, noise(found))}'
    )


def _lead(found: Gathered, best: Compared, base: Compared) -> str:
    if best is base:
        return ' It is also the best by its mean.'
    words = f' Best by its mean is {best.arm.name} with {best.mean:.4f}.'
    return words + _more(found, best, noise(found))


def _more(found: Gathered, best: Compared, known: Noise) -> str:
    """How many seeds would tell, if the difference is what it seems."""
    needed = best.needed(known)
    if needed <= best.seeds:
        return ''
    return (
        f' If its difference of {best.difference:+.4f} is what it seems, {needed} seeds of it and '
        f'of the baseline would show it 4 times of 5.'
    )


def _counts(compared: Sequence[Compared]) -> str:
    """'2 better, 1 worse'."""
    counts = {name: sum(c.verdict == name for c in compared) for name in VERDICTS[1:]}
    return ', '.join(f'{n} {name}' for name, n in counts.items() if n)
