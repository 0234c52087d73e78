"""`diff`: what differs between two runs, or two configs."""

import argparse

from bigmodel.commands.open_run import config_path
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared."""
    parser.add_argument('sides', nargs='*', help='two run directories, or config files FILE[:ARG]')


def run(args: argparse.Namespace) -> int:
    """Prints the differences."""
    from bigmodel.reports.pair import differences

    if len(args.sides) != 2:
        raise UserError('diff needs two run directories, or two config files: diff A B')
    if args.config or args.workdir or args.overrides:
        raise UserError('diff compares what is there: give two directories or files alone')
    print(differences(*map(config_path, args.sides)))
    return 0
