"""report.md: the report as text that a page of experiments can take in."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

from bigmodel.reports.best import NOTE, bests
from bigmodel.reports.flags import flags
from bigmodel.reports.gathered import Gathered
from bigmodel.reports.noise import in_words, noise
from bigmodel.reports.provenance import provenance
from bigmodel.reports.statistics import Compared
from bigmodel.reports.table import (
    HEADS,
    LEFT_OUT,
    METHOD,
    best_settings,
    cells,
    filled,
    left_out,
    ranked_rows,
)
from bigmodel.reports.verdict import verdict


def markdown(
    found: Gathered, compared: Sequence[Compared], pictures: Mapping[str, pathlib.Path]
) -> str:
    """Question, verdict, flags, tables, pictures, what was left out, provenance, commands."""
    known = noise(found)
    parts = [f'# {found.title}', found.question, f'**{verdict(found, compared)}**']
    parts += [in_words(known), '\n'.join(f'- {sentence}' for sentence in flags(found))]
    arms = [cells(c, known) for c in ranked_rows(found, compared)]
    columns = filled(arms)
    shown = _table([HEADS[i] for i in columns], [[row[i] for i in columns] for row in arms])
    parts += [f'## Arms by {found.metric} ({found.better} is better)', shown]
    parts += [best_settings(found, compared), METHOD]
    for best in bests(found):
        parts += [f'## Best of each {best.factor}', _table(best.heads, best.rows), NOTE]
    parts += [f'## {title}\n\n![{title}]({path.name})' for title, path in pictures.items()]
    rest = left_out(found)
    parts += ['## Runs that are not compared', _table(LEFT_OUT, rest)] if rest else []
    parts += ['## To make it again', '\n'.join(f'- {k}: {v}' for k, v in provenance(found))]
    parts += ['\n'.join(f'    {command}' for command in (found.whole, *found.commands) if command)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(map(_cell, line))} |' for line in lines)


def _cell(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')
