"""`bench`: step time of a config, as one JSON object."""

import argparse
import json

from bigmodel.commands.open_run import load_config
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bench`."""
    parser.add_argument('--steps', type=int, default=20, help='timed steps, after 3 that are not')


def run(args: argparse.Namespace) -> int:
    """Prints the figures; writes nothing but the prepared data and the compilation cache."""
    from bigmodel import devices
    from bigmodel.training.measure import measure
    from bigmodel.training.outline import resolve

    if args.steps < 2:
        raise UserError(f'--steps={args.steps} must be at least 2')
    config = resolve(load_config(args))
    devices.configure(config.sharding.host_devices, config.data.batch_size // config.accumulate)
    print(json.dumps(measure(config, args.steps), indent=2))
    return 0
