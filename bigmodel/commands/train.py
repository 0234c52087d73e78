"""`train`: run a config to its end."""

import argparse
import pathlib
import shlex
import sys
from typing import Any

from bigmodel.commands.open_run import load_config, workdir
from bigmodel.config import ConfigDict


def run(args: argparse.Namespace) -> int:
    """Trains the config; returns an exit code."""
    from bigmodel import devices
    from bigmodel.training.setup import resolve

    config = load_config(args)
    resolve(config)  # plain numbers are checked before devices are configured with them
    devices.configure(config.sharding.host_devices, config.data.batch_size // config.accumulate)
    return _train(workdir(args, config), config)


def _train(path: pathlib.Path, config: ConfigDict) -> int:
    from bigmodel.inference.run_to_end import run_to_end
    from bigmodel.training.rundir import RunDir
    from bigmodel.training.setup import resolve
    from bigmodel.training.signals import Interrupted

    run = RunDir(path)
    run.check(resolve(config))
    result = run.finished()
    if result is not None:
        print(f'{path} is finished: {_headline(result)}')
        return 0
    try:
        result = run_to_end(run, config)
    except Interrupted as e:
        again = ' '.join(shlex.quote(a) for a in sys.argv)
        print(f'\n{e}; saved in {path}. To resume: python {again}', flush=True)
        return 128 + e.signum
    early = f' ({result["stopped_early"]})' if result['stopped_early'] else ''
    print(f'\nfinished in {result["seconds"]:.0f} s{early}: {_headline(result)}')
    print(f'everything is in {path}: {", ".join(sorted(p.name for p in path.iterdir()))}')
    return 0


def _headline(result: dict[str, Any]) -> str:
    parts = [
        f'{split} {key} {values[key]:.4f}'
        for split, values in result['metrics'].items()
        for key in ('loss', 'bits_per_byte', 'accuracy', 'mae')
        if key in values and split != 'train'
    ]
    return ', '.join([*parts, f'{result["tokens_per_second"]:,.0f} tokens/s'])
