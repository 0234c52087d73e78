"""`report`: what the arms of a sweep, or several runs, say together."""

import argparse
import pathlib

from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument('folders', nargs='*', help='a sweep, or runs, or folders of runs')
    parser.add_argument('--metric', default='', help="EVALUATION/METRIC; default: the sweep's")
    parser.add_argument('--baseline', default='', help="an arm; default: the sweep's")
    parser.add_argument('--output', default='', help='folder; default: report/ in the first one')


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints the verdict."""
    from bigmodel.reports.report import report

    if not args.folders:
        raise UserError('report needs the directory of a sweep, such as runs/positions')
    if args.config or args.workdir:
        raise UserError('report reads directories alone: give them without --config or --workdir')
    folders = [pathlib.Path(folder) for folder in args.folders]
    output = pathlib.Path(args.output) if args.output else folders[0] / 'report'
    print(report(folders, output, args.metric, args.baseline))
    print(f'\n{output}/report.html, report.md, report.csv')
    return 0
