"""`scaling`: a scaling law of the runs of a sweep."""

import argparse
import pathlib

from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scaling`."""
    parser.add_argument('folders', nargs='*', help='a sweep, or runs, or folders of runs')
    parser.add_argument('--metric', default='', help="EVALUATION/METRIC; default: the sweep's")
    parser.add_argument('--output', default='', help='folder; default: scaling/ in the first one')
    parser.add_argument('--bootstraps', type=int, default=200, help='for the intervals')


def run(args: argparse.Namespace) -> int:
    """Prints the coefficients; writes scaling.json and scaling.png."""
    from bigmodel.data import atomic
    from bigmodel.laws.fitted import draw, fit_runs, told
    from bigmodel.reports.gathered import gather

    if not args.folders or args.bootstraps < 2:
        raise UserError('scaling needs the directory of a sweep, and at least 2 --bootstraps')
    folders = [pathlib.Path(folder) for folder in args.folders]
    fitted = fit_runs(gather(folders, args.metric), args.bootstraps)
    output = pathlib.Path(args.output) if args.output else folders[0] / 'scaling'
    atomic.write_json(output / 'scaling.json', fitted.to_json())
    draw(fitted, output / 'scaling.png')
    print(told(fitted))
    print(f'\n{output}/scaling.json, scaling.png')
    return 0
