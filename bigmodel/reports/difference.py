"""What differs between two runs, or two configs, and in what came out of them."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError
from bigmodel.training.writers import read_jsonl

# Of run.json: what may differ although configs do not.
RECORDED = {
    'git': 'code',
    'versions': 'versions',
    'devices': 'devices',
    'hosts': 'hosts',
    'mesh': 'mesh',
    'kernel': 'attention kernel',
    'data_fingerprint': 'data (fingerprint)',
    'mixture': 'mixture',
    'base': 'base',
    'companions': 'companions',
    'num_params': 'parameters',
    'num_trained': 'trained parameters',
    'flops_per_token': 'FLOPs a token',
    'tokens_per_step': 'tokens a step',
}
TIMES = ('seconds', 'tokens_per_second')


def difference(a: str, b: str) -> str:
    """In words, of two run directories or of two config files; raises UserError for neither."""
    kinds = {_kind(a), _kind(b)}
    if kinds == {'config'}:
        changes = config_lib.diff(config_lib.load(a), config_lib.load(b))
        return _section('config', changes)
    if kinds != {'run'}:
        raise UserError(f'give two runs or two config files, not one of each: {a} and {b}')
    ours, theirs = pathlib.Path(a), pathlib.Path(b)
    configs = [config_lib.read_json(run / 'config.json') for run in (ours, theirs)]
    sections = [
        _section('config', config_lib.diff(*configs)),
        _section('recorded', list(_recorded(_json(ours / 'run.json'), _json(theirs / 'run.json')))),
        _metrics(ours, theirs),
        _first_step(ours, theirs),
    ]
    return '\n\n'.join(sections)


def _kind(path: str) -> str:
    if pathlib.Path(path.partition(':')[0]).suffix == '.py':
        return 'config'
    if not (pathlib.Path(path) / 'config.json').exists():
        raise UserError(f'{path} is neither a run directory (no config.json) nor a config file')
    return 'run'


def _section(name: str, lines: list[str]) -> str:
    return '\n'.join([f'{name}:', *(f'  {line}' for line in lines or ['the same'])])


def _recorded(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key, words in RECORDED.items():
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from (f'{words}, {line}' for line in config_lib.diff(a, b))
        elif a != b:
            yield f'{words}: {a!r} -> {b!r}'


def _metrics(ours: pathlib.Path, theirs: pathlib.Path) -> str:
    """The last value of every metric of both, side by side."""
    last = [{r['split']: r for r in read_jsonl(run / 'metrics.jsonl')} for run in (ours, theirs)]
    names = [
        (split, key)
        for split, record in last[0].items()
        for key in record
        if key not in ('step', 'split') and key in last[1].get(split, {})
    ]
    if not names:
        return 'metrics: none in common'
    lines = [f'metrics:\n  {"":<32} {"first":>12} {"second":>12} {"difference":>12}']
    for split, key in names:
        a, b = (records[split][key] for records in last)
        lines.append(f'  {f"{split}/{key}":<32} {a:>12.6g} {b:>12.6g} {b - a:>+12.4g}')
    steps = [max((r['step'] for r in records.values()), default=0) for records in last]
    if steps[0] != steps[1]:
        lines.append(f'  of other steps: {steps[0]:,} and {steps[1]:,}')
    return '\n'.join(lines)


def _first_step(ours: pathlib.Path, theirs: pathlib.Path) -> str:
    """Since when the two are not the same run."""
    curves = [_numbers(run / 'metrics.jsonl') for run in (ours, theirs)]
    common = [place for place in curves[0] if place in curves[1]]
    if not common:
        return 'No step is in both.'
    for step, split in common:
        a, b = (curve[step, split] for curve in curves)
        wrong = [k for k in a if k in b and a[k] != b[k] and not (_nan(a[k]) and _nan(b[k]))]
        if wrong:
            before = [s for s, _ in common if s < step]
            here = f'step {step:,} {split}/{wrong[0]} is {a[wrong[0]]!r} and {b[wrong[0]]!r}.'
            if not before:
                return f'At {here}'
            return f'The same to the last bit up to step {before[-1]:,}; at {here}'
    return f'All {len(common)} records that are in both are the same to the last bit.'


def _numbers(path: pathlib.Path) -> dict[tuple[int, str], dict[str, float]]:
    """What does not depend on the machine's speed, by step and split."""
    return {
        (r['step'], r['split']): {k: v for k, v in r.items() if k not in ('step', 'split', *TIMES)}
        for r in read_jsonl(path)
    }


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as e:
        raise UserError(f'{path} is damaged ({e})') from e
