"""`diff`: what differs between two runs, or two configs."""

import argparse

from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `diff`."""
    parser.add_argument('two', nargs='*', help='two run directories, or two config files')


def run(args: argparse.Namespace) -> int:
    """Prints it."""
    from bigmodel.reports.difference import difference

    if len(args.two) != 2 or args.config or args.workdir:
        raise UserError('diff needs two runs or two config files: diff runs/a runs/b')
    print(difference(*args.two))
    return 0
