"""`extrapolate`: loss and accuracy of runs by position, beyond the length that they trained on."""

import argparse
import json
import pathlib
import sys
from typing import Any

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `extrapolate`."""
    parser.add_argument(
        'runs',
        nargs='+',
        help='run directories, one line of the picture each; RUN@POSITION reads the run with '
        'another model.position, such as \'runs/rope@rope(scaling="ntk", factor=4)\'',
    )
    parser.add_argument('--length', type=int, default=0, help='tokens a row; 0: four times trained')
    parser.add_argument('--split', default='validation')
    parser.add_argument('--batches', type=int, default=64, help='0: the whole split')
    parser.add_argument('--picture', default='extrapolation.png')


def run(args: argparse.Namespace) -> int:
    """Prints one JSON object, writes the picture."""
    from bigmodel import devices
    from bigmodel.training.extrapolation import draw, summary

    if args.config or args.overrides:
        raise UserError('give run directories alone: the configs of the runs are used')
    if args.length < 0 or args.batches < 0:
        raise UserError('--length and --batches must not be negative')
    arms = {name: _arm(name) for name in args.runs}
    lengths = {config.data.seq_len for _, config in arms.values()}
    if len(lengths) > 1:
        raise UserError(f'the runs trained on rows of different lengths: {sorted(lengths)}')
    (trained,) = lengths
    length = args.length or 4 * trained
    for folder, config in arms.values():
        _check_length(folder, config, length)
    first = next(config for _, config in arms.values())
    devices.configure(first.sharding.host_devices, first.data.batch_size)
    tables = {}
    for name, (folder, config) in arms.items():
        tables[name] = _measure(folder, config, length, args)
        print(f'{name}: {summary(tables[name], trained)}', file=sys.stderr)
    draw(tables, trained, pathlib.Path(args.picture))
    print(json.dumps({'trained': trained, 'picture': args.picture, 'runs': tables}, indent=2))
    return 0


def _arm(name: str) -> tuple[str, ConfigDict]:
    """The folder of RUN or RUN@POSITION, and the run's config with that position."""
    from bigmodel.training.outline import resolve

    folder, at, position = name.rpartition('@')
    if not at or pathlib.Path(name).is_dir():
        folder, position = name, ''
    config = resolve(config_lib.read_json(pathlib.Path(folder) / 'config.json'))
    config.model.position = position or config.model.position
    return folder, config


def _check_length(folder: str, config: ConfigDict, length: int) -> None:
    from bigmodel.tasks.build import build_task
    from bigmodel.training.restore import learned_length

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


def _measure(
    folder: str, config: ConfigDict, length: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    from bigmodel.training.extrapolation import by_position, table
    from bigmodel.training.restore import restored_params
    from bigmodel.training.setup import build

    trained = config.data.seq_len
    config.data.seq_len = length
    config.accumulate, config.init_from.path = 1, ''
    config.checkpoint.only_trained = False
    setup = build(config)
    params, _ = restored_params(folder, 0, setup.abstract.params)
    with setup.sharding.active():
        return table(by_position(setup, params, args.split, args.batches), trained)
