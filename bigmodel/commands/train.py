"""`train`: run a config to its end, with the runs it is compared with."""

import argparse
import math
import pathlib
import shlex
import sys
from typing import Any

from bigmodel import config as config_lib
from bigmodel.commands import elsewhere
from bigmodel.commands.open_run import load_config, workdir
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train`."""
    about = 'ADDRESS:PORT of the first of several hosts; SLURM, Open MPI and TPU pods say it'
    elsewhere.add_arguments(parser)
    parser.add_argument('--coordinator', default='', help=about)
    parser.add_argument('--num_hosts', type=int, default=0, help='with --coordinator: how many')
    parser.add_argument('--host', type=int, default=-1, help='with --coordinator: which, from 0')


def run(args: argparse.Namespace) -> int:
    """Trains the config and its baselines; returns an exit code."""
    from bigmodel import hosts

    config = load_config(args)
    if args.launcher != 'local':
        return elsewhere.launch(args)
    with hosts.joined(args.coordinator, args.num_hosts, args.host):
        return _run(workdir(args, config), config)


def _run(where: pathlib.Path, config: ConfigDict) -> int:
    from bigmodel import devices, hosts
    from bigmodel.training.setup import resolve

    keys = config_lib.flatten(config_lib.to_dict(config))
    facts = {f'config.{key}': value for key, value in keys} | {'--workdir': str(where)}
    hosts.check_alike({'code': hosts.code(), **hosts.versions(), **facts})
    resolve(config)  # plain numbers are checked before devices are configured with them
    arms = {config.name: (where, config)} | {
        arm.name: (where.with_name(f'{where.name}-{name}'), arm)
        for name, arm in baselines(config).items()
    }
    rows = config.data.batch_size // config.accumulate // hosts.count()
    devices.configure(config.sharding.host_devices, max(rows, 1))
    results = {}
    for name, (path, arm) in arms.items():
        result = _train_one(path, arm)
        if isinstance(result, int):
            return result
        results[name] = result
    if len(results) > 1:
        print_comparison(results)
    return 0


def baselines(config: ConfigDict) -> dict[str, ConfigDict]:
    """The configs of `config.baselines`, each an override or several: 'name: key=value ...'."""
    arms = {}
    for text in map(str, config.baselines):
        name, words, changes = config_lib.read_entry('baselines', text, 'name: key=value ...')
        if words:
            raise UserError(f"baselines: cannot read {text!r}; write 'name: key=value ...'")
        arm = config.copy_and_resolve_references()
        for key, value in changes.items():
            config_lib.override(arm, key, value)
        arm.name, arm.baselines = f'{config.name}-{name}', ()
        arms[name] = arm
    return arms


def print_comparison(results: dict[str, dict[str, Any]]) -> None:
    """The final metrics of several runs side by side."""
    splits = [s for s in next(iter(results.values()))['metrics'] if s != 'train']
    for split in splits:
        first = next(iter(results.values()))['metrics'][split]
        keys = [key for key in ('loss', 'accuracy', 'mae') if key in first]
        print(f'\n{split:<28} ' + ' '.join(f'{key:>9}' for key in (*keys, 'steps')))
        for name, result in results.items():
            there = result['metrics'][split]  # without a mean of which nothing counted
            values = [f'{there.get(key, math.nan):>9.4f}' for key in keys]
            print(f'{name:<28} ' + ' '.join([*values, f'{result["steps"]:>9}']))


def _train_one(path: pathlib.Path, config: ConfigDict) -> dict[str, Any] | int:
    from bigmodel import hosts
    from bigmodel.inference.run_to_end import run_to_end
    from bigmodel.training.rundir import RunDir
    from bigmodel.training.setup import resolve
    from bigmodel.training.signals import Interrupted

    run = RunDir(path)
    hosts.from_first(lambda: run.check(resolve(config)))
    result = hosts.from_first(run.finished)
    if result is not None:
        print(f'{path} is finished: {_headline(result)}')
        return result
    try:
        result = run_to_end(run, config)
    except Interrupted as e:
        again = ' '.join(shlex.quote(a) for a in sys.argv)
        print(f'\n{e}; saved in {path}. To resume: python {again}', flush=True)
        return 128 + e.signum
    early = f' ({result["stopped_early"]})' if result['stopped_early'] else ''
    print(f'\nfinished in {result["seconds"]:.0f} s{early}: {_headline(result)}')
    print(f'everything is in {path}: {", ".join(sorted(p.name for p in path.iterdir()))}')
    return result


def _headline(result: dict[str, Any]) -> str:
    parts = [
        f'{split} {key} {values[key]:.4f}'
        for split, values in result['metrics'].items()
        for key in ('loss', 'bits_per_byte', 'accuracy', 'mae')
        if key in values and split != 'train'
    ]
    return ', '.join([*parts, f'{result["tokens_per_second"]:,.0f} tokens/s'])
