"""Two runs, or two configs, side by side: what differs, and since when."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models import presets
from bigmodel.sweeps.folder import RunState
from bigmodel.sweeps.plan import Job
from bigmodel.training.goodput import in_words
from bigmodel.training.writers import ABOUT

# Keys that say which run it is, and not what it is.
_NAMES = ('name',)
_WHEN = ('command', 'started')
_ABSENT = '–'

Rows = list[tuple[str, ...]]


def differences(a: str, b: str) -> str:
    """What differs between two run directories, or two configs (of files or of runs).

    Raises UserError for what is neither.
    """
    lines = [f'A  {a}', f'B  {b}']
    changed = _rows(*(_leaves(_config(side), _NAMES) for side in (a, b)))
    lines += _section('config', changed)
    if any(map(_is_file, (a, b))):
        return '\n'.join([*lines, *([] if changed else ['', 'Nothing differs in the configs.'])])
    runs = [_run(side) for side in (a, b)]
    facts = _rows(*(_leaves(run.run, _WHEN) for run in runs))
    lines += _section('code, data, devices', facts)
    lines += _uncommitted(*(run.run.get('git', {}) for run in runs))
    metrics = list(_metrics(*map(_last, runs)))
    lines += ['', *_table([('last evaluation', 'A', 'B', 'B - A'), *metrics])] if metrics else []
    same, sentence = _losses(*(_by_step(run) for run in runs))
    lines += ['', f'training loss: {sentence}', *_speed(*runs)]
    if not changed and not facts and same and not any(row[3] for row in metrics):
        lines += ['', 'Nothing differs but the time they took.']
    return '\n'.join(lines)


def _config(side: str) -> ConfigDict:
    """The resolved config of a run directory, or of a file with its argument."""
    if not _is_file(side):
        return config_lib.read_json(_run(side).path / 'config.json')
    config = config_lib.load(side).copy_and_resolve_references()
    presets.resolve(config.model, config.data.seq_len)
    return config


def _is_file(side: str) -> bool:
    return side.partition(':')[0].endswith('.py')


def _run(side: str) -> RunState:
    path = pathlib.Path(side)
    if not path.exists():
        raise UserError(f'{side} does not exist; give two run directories, or two config files')
    if (path / 'sweep.json').exists():
        runs = sorted(str(p.parent) for p in path.glob('*/*/config.json'))
        example = f', such as {runs[0]}' if runs else ''
        raise UserError(f'{side} is a sweep: give two of its runs{example}, or use report')
    if not (path / 'config.json').exists():
        raise UserError(f'{side} holds no run: there is no config.json in it')
    return RunState(Job(path.name, 0), path, '')


def _leaves(tree: Mapping | ConfigDict, without: tuple[str, ...]) -> dict[str, Any]:
    """What is at each dotted key, as JSON has it."""
    flat = dict(config_lib.flatten(config_lib.to_dict(tree)))
    return {key: value for key, value in flat.items() if key not in without}


def _rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Rows:
    """(key, A's, B's) of the leaves that differ."""
    keys = dict.fromkeys([*a, *b])
    return [(k, _text(a, k), _text(b, k)) for k in keys if _text(a, k) != _text(b, k)]


def _text(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else _ABSENT


def _section(title: str, rows: Rows) -> list[str]:
    if not rows:
        return ['', f'{title}: the same']
    return ['', *_table([(title, 'A', 'B'), *rows])]


def _uncommitted(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    dirty = [name for name, git in (('A', a), ('B', b)) if git.get('dirty')]
    if not dirty:
        return []
    return [f'The code of {" and ".join(dirty)} had uncommitted changes: it may differ unseen.']


def _last(run: RunState) -> dict[str, tuple[int, float]]:
    """The last value, with its step, of 'EVALUATION/METRIC'."""
    found = {}
    for record in run.records:
        if record['split'] != 'train':
            values = {k: v for k, v in record.items() if k not in ABOUT}
            found |= {f'{record["split"]}/{k}': (record['step'], v) for k, v in values.items()}
    return found


def _metrics(
    a: Mapping[str, tuple[int, float]], b: Mapping[str, tuple[int, float]]
) -> Iterator[tuple[str, ...]]:
    """(metric, A's, B's, difference) of every metric; no difference is ''."""
    for key in dict.fromkeys([*a, *b]):
        cells = [f'{side[key][1]:.6g} ({side[key][0]})' if key in side else '' for side in (a, b)]
        if key in a and key in b:
            difference = '' if _same(a[key][1], b[key][1]) else f'{b[key][1] - a[key][1]:+.4g}'
        else:
            difference = f'{"B" if key in a else "A"} has none'
        yield (key, *cells, difference)


def _same(a: float | int, b: float | int) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _by_step(run: RunState) -> dict[int, float]:
    return {r['step']: r['loss'] for r in run.records if r['split'] == 'train' and 'loss' in r}


def _losses(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[bool, str]:
    """Whether the logged losses are the same everywhere, and since when they are not."""
    steps = sorted(set(a) & set(b))
    if not steps:
        return not a and not b, 'there is no step that both have logged'
    first = next((step for step in steps if not _same(a[step], b[step])), None)
    longer = '' if max(a) == max(b) else f'; {"A" if max(a) > max(b) else "B"} has gone further'
    if first is None:
        same = f'identical to the last bit at all {len(steps)} steps that both logged'
        return a.keys() == b.keys(), f'{same}, to step {steps[-1]}{longer}'
    before = [step for step in steps if step < first]
    sentence = f'identical to the last bit until step {before[-1]}, ' if before else ''
    sentence += f'differs from step {first} on ({_step(a, b, first)})'
    if first != steps[-1]:
        sentence += f'; at step {steps[-1]} {_step(a, b, steps[-1])}'
    return False, sentence + longer


def _step(a: Mapping[int, float], b: Mapping[int, float], step: int) -> str:
    return f'{a[step]:.6g} and {b[step]:.6g}, B - A {b[step] - a[step]:+.3g}'


def _speed(*runs: RunState) -> Iterator[str]:
    """Seconds and tokens a second of runs that have ended."""
    results = [run.result for run in runs]
    for name, result in zip('AB', results, strict=True):
        if not result:
            yield f'{name} has not finished'
        elif 'goodput' in result:
            yield f'time of {name}: {in_words(result["goodput"])}'
    for key, words in (('seconds', 'seconds'), ('tokens_per_second', 'tokens a second')):
        values = [result[key] for result in results if result.get(key)]
        if len(values) == len(results):
            a, b = values
            yield f'{words}: {a:,.0f} and {b:,.0f}, B/A {b / a:.2f}'


def _table(rows: Rows) -> list[str]:
    """Columns, the first line being their heads."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        '  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
