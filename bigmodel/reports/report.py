"""A report: what is gathered, compared, drawn and written, in this order."""

import pathlib
from collections.abc import Sequence

from bigmodel.data import atomic
from bigmodel.errors import UserError
from bigmodel.reports.drawn import draw
from bigmodel.reports.flags import flags
from bigmodel.reports.gathered import gather
from bigmodel.reports.html import page
from bigmodel.reports.markdown import markdown
from bigmodel.reports.sheet import sheet
from bigmodel.reports.statistics import compare
from bigmodel.reports.table import in_columns
from bigmodel.reports.verdict import verdict


def report(
    folders: Sequence[pathlib.Path], output: pathlib.Path, metric: str = '', baseline: str = ''
) -> str:
    """Writes report.html, .md, .csv and the pictures; returns what a terminal shows."""
    found = gather(folders, metric, baseline)
    compared = compare(found)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f'--output={output} cannot be written: {e.strerror}') from e
    pictures = draw(found, compared, output)
    atomic.write_text(output / 'report.csv', sheet(found))
    atomic.write_text(output / 'report.md', markdown(found, compared, pictures))
    atomic.write_text(output / 'report.html', page(found, compared, pictures))
    said = [verdict(found, compared), in_columns(found, compared)]
    mind = '\n'.join(f'! {sentence}' for sentence in flags(found))
    return '\n\n'.join([*said, mind] if mind else said)
