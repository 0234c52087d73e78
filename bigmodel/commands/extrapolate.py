"""`extrapolate`: loss and accuracy of runs by position, beyond the length that they trained on."""

import argparse
import json
import pathlib
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `extrapolate`."""
    parser.add_argument('runs', nargs='+', help='run directories, one line of the picture each')
    parser.add_argument('--length', type=int, default=0, help='tokens a row; 0: four times trained')
    parser.add_argument('--split', default='validation')
    parser.add_argument('--batches', type=int, default=64, help='0: the whole split')
    parser.add_argument('--picture', default='extrapolation.png')


def run(args: argparse.Namespace) -> int:
    """Prints one JSON object, writes the picture."""
    from bigmodel import devices
    from bigmodel.training.extrapolation import draw
    from bigmodel.training.setup import resolve

    if args.config or args.overrides:
        raise UserError('give run directories alone: the configs of the runs are used')
    if args.length < 0 or args.batches < 0:
        raise UserError('--length and --batches must not be negative')
    configs = {
        folder: resolve(config_lib.read_json(pathlib.Path(folder) / 'config.json'))
        for folder in args.runs
    }
    lengths = {config.data.seq_len for config in configs.values()}
    if len(lengths) > 1:
        raise UserError(f'the runs trained on rows of different lengths: {sorted(lengths)}')
    (trained,) = lengths
    first = next(iter(configs.values()))
    devices.configure(first.sharding.host_devices, first.data.batch_size)
    length = args.length or 4 * trained
    tables = {folder: _measure(folder, c, length, args) for folder, c in configs.items()}
    draw(tables, trained, pathlib.Path(args.picture))
    print(json.dumps({'trained': trained, 'picture': args.picture, 'runs': tables}, indent=2))
    return 0


def _measure(folder: str, config: Any, length: int, args: argparse.Namespace) -> list[dict]:
    from bigmodel.tasks.build import build_task
    from bigmodel.training.extrapolation import by_position, table
    from bigmodel.training.restore import learned_length, restored_params
    from bigmodel.training.setup import build

    if not build_task(config.task).whole_text:
        raise UserError(
            f'{folder} has the task {config.task!r}; only causal_lm has a loss by position'
        )
    learned = learned_length(config)
    if learned and length > learned:
        raise UserError(
            f'{folder} has learned positions for {learned} tokens, not {length}; '
            f'leave it out or give a smaller --length'
        )
    trained = config.data.seq_len
    config.data.seq_len = length
    config.accumulate, config.init_from.path = 1, ''
    setup = build(config)
    params, _ = restored_params(folder, 0, setup.abstract.params)
    with setup.sharding.active():
        return table(by_position(setup, params, args.split, args.batches), trained)
