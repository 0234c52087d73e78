"""From arguments to a config and a run directory: what every command begins with."""

import argparse
import pathlib

from bigmodel import config as config_lib
from bigmodel import joining
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
STEP = 'of the checkpoint; 0: the newest; best: that of checkpoint.best'
DEFAULT_CONFIG = 'experiments/quickstart.py'


def load_config(args: argparse.Namespace) -> ConfigDict:
    """The config of `--config` (default: the quickstart), named after its file."""
    path = config_path(args.config or DEFAULT_CONFIG)
    config = config_lib.load(path, args.overrides)
    if not config.name:
        config.name = pathlib.Path(path.partition(':')[0]).stem
    return config


def config_path(path_and_arg: str) -> str:
    """`--config`, of this code where the path is of nothing here."""
    path = path_and_arg.partition(':')[0]
    if not pathlib.Path(path).exists() and (ROOT / path).exists():
        return str(ROOT / path_and_arg)  # launch.py was called from elsewhere
    return path_and_arg


def load_run_config(args: argparse.Namespace) -> ConfigDict:
    """The config of the run in `--workdir`, with overrides; `--config` must not be given too.

    What reads a run does so on one host: raises UserError where several were started.
    """
    joining.check_alone(args.command)
    if args.config:
        raise UserError('give --workdir=RUN alone: the config of the run is used')
    if not args.workdir:
        raise UserError('--workdir=RUN is needed: the directory of a run, such as runs/quickstart')
    config = config_lib.read_json(pathlib.Path(args.workdir) / 'config.json')
    for key, text in args.overrides:
        config_lib.override(config, key, text)
    return config


def step(text: str) -> int | str:
    """A checkpoint's number, or 'best'."""
    return text if text == 'best' else int(text)


def workdir(args: argparse.Namespace, config: ConfigDict) -> pathlib.Path:
    """`--workdir`, or runs/<name>."""
    return pathlib.Path(args.workdir or pathlib.Path('runs') / config.name)
