"""A report: what is gathered, compared, drawn and written, in this order."""

import pathlib
from collections.abc import Sequence

from bigmodel.data import atomic
from bigmodel.errors import UserError
from bigmodel.reports.gathered import gather
from bigmodel.reports.pages import markdown, page, table_csv
from bigmodel.reports.pictures import draw
from bigmodel.reports.statistics import compare, verdict


def report(
    folders: Sequence[pathlib.Path], output: pathlib.Path, metric: str = '', baseline: str = ''
) -> str:
    """Writes report.html, report.md, report.csv and the pictures; returns the verdict."""
    found = gather(folders, metric, baseline)
    compared = compare(found)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f'--output={output} cannot be written: {e.strerror}') from e
    pictures = draw(found, compared, output)
    atomic.write_text(output / 'report.csv', table_csv(found))
    atomic.write_text(output / 'report.md', markdown(found, compared, pictures))
    atomic.write_text(output / 'report.html', page(found, compared, pictures))
    return verdict(found, compared)
