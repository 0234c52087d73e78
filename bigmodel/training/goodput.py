"""How much of a run's wall time, over all of its restarts, went into steps that count.

`times.jsonl` is only ever appended to: a line for each start, {'began': seconds since 1970, 'step':
the one that it goes on after}, and one for each stretch of steps, with seconds by kind (clock.py)
up to `step`. What a later start makes again is then still there, and known to be lost.
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

# clock.py says what they mean.
KINDS = ('compute', 'input', 'host', 'evaluation', 'checkpoint', 'compile', 'start')
WORDS = {
    'productive_seconds': 'compute',
    'input': 'waiting for input',
    'host': 'host',
    'evaluation': 'evaluation',
    'checkpoint': 'checkpoints',
    'compile': 'compilation',
    'start': 'start',
    'lost': 'steps made again',
    'down': 'down',
}


def goodput(path: pathlib.Path) -> dict[str, Any]:
    """The account of a run's `times.jsonl`, in seconds; `fraction` is that of the steps that count.

    `wall_seconds` is from the first start to the end of the last line, and the sum of
    `productive_seconds` (compute of steps that count), `lost` (everything between a checkpoint that
    was resumed from and the last line before), `down` (from there to the next start; what was
    computed after the last line, at most `log_every` steps, is not known and counts here) and the
    other kinds. `since_step` is not 0 where an older version trained the first steps.
    """
    return _account(_starts(path))


def in_words(found: Mapping[str, Any]) -> str:
    """'65 s: 84 % compute, …', the largest first, and restarts."""
    wall = max(found['wall_seconds'], 1e-9)
    shares = sorted(((found[key] / wall, words) for key, words in WORDS.items()), reverse=True)
    parts = [f'{100 * share:.0f} % {words}' for share, words in shares if share >= 0.005]
    starts, lost = found['restarts'], found['lost_steps']
    restarts = f'; {starts} restart{"s" * (starts > 1)}' * bool(starts)
    again = f', {lost} step{"s" * (lost > 1)} made again' * bool(lost)
    return f'{wall:.0f} s: {", ".join(parts)}{restarts}{again}'


def _starts(path: pathlib.Path) -> list[list[Mapping[str, Any]]]:
    """The lines of each start, that of the start first."""
    starts: list[list[Mapping[str, Any]]] = []
    for record in _records(path):
        if 'began' in record:
            starts.append([])
        if starts:
            starts[-1].append(record)
    return starts


def _records(path: pathlib.Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are whole: a kill may have cut one off."""
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and 'step' in record:
            yield record


def _account(starts: list[list[Mapping[str, Any]]]) -> dict[str, Any]:
    totals = dict.fromkeys((*KINDS, 'lost', 'down'), 0.0)
    lost_steps, ended = 0, starts[0][0]['began']
    for i, (first, *lines) in enumerate(starts):
        # Clocks of two machines may differ.
        totals['down'] += max(first['began'] - ended, 0.0)
        ended = first['began'] + sum(line.get(kind, 0.0) for line in lines for kind in KINDS)
        kept = min((later[0]['step'] for later in starts[i + 1 :]), default=sys.maxsize)
        lost_steps += max(max(line['step'] for line in (first, *lines)) - kept, 0)
        for line in lines:
            for kind in KINDS:
                lost = line['step'] > kept and kind != 'compile'
                totals['lost' if lost else kind] += line.get(kind, 0.0)
    wall = sum(totals.values())
    productive = totals.pop('compute')
    return {
        'fraction': round(productive / max(wall, 1e-9), 4),
        'wall_seconds': round(wall, 3),
        'productive_seconds': round(productive, 3),
        **{kind: round(seconds, 3) for kind, seconds in totals.items()},
        'lost_steps': lost_steps,
        'restarts': len(starts) - 1,
        'since_step': starts[0][0]['step'],
    }
