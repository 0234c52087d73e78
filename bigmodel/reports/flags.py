"""What makes a comparison unfair, or one that cannot be made again."""

from collections.abc import Callable, Iterable, Iterator
from statistics import fmean
from typing import Any

from bigmodel.reports.gathered import Gathered, Run

TOLERANCE = 0.01  # by which budgets of arms may differ unflagged


def flags(found: Gathered) -> list[str]:
    """A sentence for each thing in which finished runs differ although they should not, and for
    what keeps runs out of the comparison.
    """
    runs = [run for arm in found.arms for run in arm.done.values()]
    sentences = [_budget(found, words, read) for words, read in _BUDGETS.items()]
    sentences += [_differ(runs, words, read) for words, read in _SAME.items()]
    sentences += [_other_measure(found), *_other_configs(found)]
    dirty = sum(bool((run.facts.get('git') or {}).get('dirty')) for run in runs)
    if dirty:
        sentences.append(f'{dirty} of {len(runs)} runs were of code with uncommitted changes.')
    for state in ('pruned', 'failed', 'running', 'stopped', 'waiting'):
        count = sum(run.outcome == state for run in found.runs)
        if count:
            words = f'{count} of {len(found.runs)} runs: {state}, and not compared.'
            sentences.append(words)
    return [sentence for sentence in [*sentences, *_seeds(found)] if sentence]


def _seeds(found: Gathered) -> Iterator[str]:
    partly = [
        arm.name
        for arm in found.arms
        if arm.done and any(run.outcome in ('failed', 'pruned') for run in arm.runs)
    ]
    if partly:
        yield (
            f'Only the seeds that finished stand for {", ".join(partly)}: with those that failed '
            f'or were pruned its mean could be worse.'
        )
    seeds = {arm.name: tuple(sorted(arm.done)) for arm in found.arms if arm.done}
    if len(set(seeds.values())) > 1:
        yield 'Arms have finished different seeds; differences are of those in common.'
    twice = [arm.name for arm in found.arms if len({r.seed for r in arm.runs}) < len(arm.runs)]
    if twice:
        yield f'Several runs have one arm and seed ({", ".join(twice)}): the last one counts.'


def _other_measure(found: Gathered) -> str:
    """Where the same name is of another measurement: other data, tokens or tasks."""
    evaluation = found.metric.partition('/')[0]
    keys = [
        key
        for key in found.varied
        if key.startswith((f'evals.{evaluation}.', *MEASURE)) and not key.endswith('.every')
    ]
    if not keys:
        return ''
    return (
        f'Arms differ in {", ".join(keys)}, so {found.metric} is not the same measurement in '
        f'all: a difference may be one of what is measured.'
    )


def _other_configs(found: Gathered) -> Iterator[str]:
    """Runs whose config is not what the plan says of their arm."""
    for arm in found.arms:
        wrong = {
            key
            for run in arm.runs
            for key, value in arm.changes.items()
            if run.config and _plain(run.config[key]) != _plain(value)
        }
        if wrong:
            yield (
                f'Runs of {arm.name} were trained with another {", ".join(sorted(wrong))} than the '
                f'plan says now.'
            )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


MEASURE = ('task', 'data.tokenizer', 'data.format', 'data.packing', 'data.seq_len', 'data.source')
_BUDGETS: dict[str, Callable[[Run], float]] = {
    'steps': lambda run: run.facts['steps'],
    'the step of the value': lambda run: run.step,
    'tokens': lambda run: run.facts['tokens'],
    'training FLOPs': lambda run: run.flops,
    'parameters': lambda run: run.facts.get('num_params', 0),
}
_SAME: dict[str, Callable[[Run], Any]] = {
    'data (fingerprint)': lambda run: run.facts.get('data_fingerprint'),
    'code (commit)': lambda run: (run.facts.get('git') or {}).get('commit'),
    'versions of packages': lambda run: tuple(sorted(run.facts.get('versions', {}).items())),
    'devices': lambda run: run.facts.get('devices'),
    'attention kernel': lambda run: run.facts.get('kernel'),
    'runs that shared their time (trained together)': lambda run: run.facts.get('together', 1),
}


def _budget(found: Gathered, words: str, read: Callable[[Run], float]) -> str:
    values = {arm.name: fmean(map(read, arm.done.values())) for arm in found.arms if arm.done}
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
    named = '; '.join(f'{_short(value)}: {_of(names)}' for value, names in arms.items())
    return f'Runs differ in {words}: {named}.'


def _of(names: list[str]) -> str:
    """'3 runs (a, b)'; long lists of arms are cut."""
    arms = list(dict.fromkeys(names))
    more = f' and {len(arms) - 3} more arms' if len(arms) > 3 else ''
    return f'{len(names)} {"run" if len(names) == 1 else "runs"} ({", ".join(arms[:3])}{more})'


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(f'{name} {version}' for name, version in value)
    return str(value)[:40]
