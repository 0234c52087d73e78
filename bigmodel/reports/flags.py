"""What makes a comparison unfair, or one that cannot be made again."""

from collections.abc import Callable, Iterable
from typing import Any

from bigmodel.reports.gathered import Gathered, Run

TOLERANCE = 0.01  # by which budgets of arms may differ unflagged


def flags(found: Gathered) -> list[str]:
    """A sentence for each thing in which finished runs differ although they should not."""
    runs = [run for arm in found.arms for run in arm.done.values()]
    sentences = [_budget(runs, key, words) for key, words in _BUDGETS.items()]
    sentences += [_differ(runs, words, read) for words, read in _SAME.items()]
    dirty = sum(bool(run.facts.get('git', {}).get('dirty')) for run in runs)
    if dirty:
        sentences.append(f'{dirty} of {len(runs)} runs were of code with uncommitted changes.')
    for state in ('pruned', 'failed', 'running', 'stopped', 'waiting'):
        count = sum(run.state == state for run in found.runs)
        if count:
            words = f'{count} of {len(found.runs)} runs: {state}, and not compared.'
            sentences.append(words)
    seeds = {arm.name: tuple(sorted(arm.done)) for arm in found.arms if arm.done}
    if len(set(seeds.values())) > 1:
        sentences.append('Arms have finished different seeds; differences are of those in common.')
    return [sentence for sentence in sentences if sentence]


_BUDGETS = {
    'steps': 'steps',
    'tokens': 'tokens',
    'flops': 'training FLOPs',
    'num_params': 'parameters',
}
_SAME: dict[str, Callable[[Run], Any]] = {
    'data (fingerprint)': lambda run: run.facts.get('data_fingerprint'),
    'code (commit)': lambda run: run.facts.get('git', {}).get('commit'),
    'versions of packages': lambda run: tuple(sorted(run.facts.get('versions', {}).items())),
    'devices': lambda run: run.facts.get('devices'),
    'attention kernel': lambda run: run.facts.get('kernel'),
}


def _budget(runs: Iterable[Run], key: str, words: str) -> str:
    values = {run.arm: run.flops if key == 'flops' else run.facts.get(key, 0) for run in runs}
    least, most = min(values.values(), default=0), max(values.values(), default=0)
    if not least or most <= least * (1 + TOLERANCE):
        return ''
    small, large = (min(values, key=values.get), max(values, key=values.get))
    return (
        f'Arms differ in {words}: from {least:,.0f} ({small}) to {most:,.0f} ({large}), '
        f'{most / least:.2f} times.'
    )


def _differ(runs: Iterable[Run], words: str, read: Callable[[Run], Any]) -> str:
    arms: dict[Any, list[str]] = {}
    for run in runs:
        arms.setdefault(read(run), []).append(run.arm)
    if len(arms) < 2:
        return ''
    named = '; '.join(f'{_short(value)}: {len(of)} runs' for value, of in arms.items())
    return f'Runs differ in {words}: {named}.'


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(f'{name} {version}' for name, version in value)
    return str(value)[:40]
