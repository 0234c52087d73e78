"""`scaling`: a scaling law of the runs of a sweep over sizes and tokens."""

import argparse
import pathlib

from bigmodel.errors import UserError

RESAMPLES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scaling`."""
    parser.add_argument('folders', nargs='*', help='a sweep, or runs, or folders of runs')
    parser.add_argument('--metric', default='', help="a loss in nats; default: the sweep's")
    parser.add_argument('--params', default='all', help='which N counts: all, or non_embedding')
    parser.add_argument(
        '--bootstrap', type=int, default=RESAMPLES, help='resamples; 0: no intervals'
    )
    parser.add_argument('--output', default='', help='folder; default: the first one')


def run(args: argparse.Namespace) -> int:
    """Prints the law, and writes scaling.json and scaling.png."""
    if not args.folders:
        raise UserError('scaling needs the directory of a sweep, such as runs/scaling')
    if args.config or args.workdir or args.overrides:
        raise UserError('scaling reads directories alone: give them without --config or --workdir')
    if args.bootstrap < 0:
        raise UserError(f'--bootstrap={args.bootstrap} must not be negative')
    from bigmodel.data.atomic import write_json
    from bigmodel.laws.picture import draw
    from bigmodel.laws.points import read_points
    from bigmodel.laws.scaling import as_json, scaling, text

    folders = [pathlib.Path(folder) for folder in args.folders]
    found = scaling(read_points(folders, args.metric, args.params), args.bootstrap)
    print(text(found))
    output = pathlib.Path(args.output) if args.output else folders[0]
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / 'scaling.json', as_json(found))
        draw(found, output / 'scaling.png')
    except OSError as e:
        raise UserError(f'--output={output} cannot be written: {e.strerror}') from e
    print(f'\n{output}/scaling.json and scaling.png; python launch.py size --fit reads the first')
    return 0
