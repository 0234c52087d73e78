"""`train`: run a config to its end."""

import argparse
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from bigmodel import config as config_lib
from bigmodel.commands import elsewhere
from bigmodel.commands.open_run import load_config, workdir
from bigmodel.config import ConfigDict

if TYPE_CHECKING:  # it imports JAX
    from bigmodel.training.profiling import Profile

TRACE = 'steps FIRST:LAST to trace into profile/ of the run, on the first host; alone: 5 early ones'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train`."""
    about = 'ADDRESS:PORT of the first of several hosts; SLURM, Open MPI and TPU pods say it'
    elsewhere.add_arguments(parser)
    parser.add_argument('--profile', nargs='?', const='auto', default='', help=TRACE)
    parser.add_argument('--coordinator', default='', help=about)
    parser.add_argument('--num_hosts', type=int, default=0, help='with --coordinator: how many')
    parser.add_argument('--host', type=int, default=-1, help='with --coordinator: which, from 0')


def run(args: argparse.Namespace) -> int:
    """Trains the config; returns an exit code."""
    from bigmodel import hosts
    from bigmodel.training.profiling import Profile

    config = load_config(args)
    profile = Profile(args.profile, config.num_steps)
    if args.launcher != 'local':
        return elsewhere.launch(args)
    with hosts.joined(args.coordinator, args.num_hosts, args.host):
        return _run(workdir(args, config), config, profile)


def _run(path: pathlib.Path, config: ConfigDict, profile: 'Profile') -> int:
    from bigmodel import devices, hosts
    from bigmodel.training.outline import resolve

    if hosts.count() > 1:  # the fingerprint of the code is read from all of its files
        keys = config_lib.flatten(config_lib.to_dict(config))
        facts = {f'config.{key}': value for key, value in keys} | {'--workdir': str(path)}
        hosts.check_alike({'code': hosts.code(), **hosts.versions(), **facts})
    resolve(config)  # plain numbers are checked before devices are configured with them
    rows = config.data.batch_size // config.accumulate // hosts.count()
    devices.configure(config.sharding.host_devices, max(rows, 1))
    return _train(path, config, profile)


def _train(path: pathlib.Path, config: ConfigDict, profile: 'Profile') -> int:
    from bigmodel import devices, hosts
    from bigmodel.inference.run_to_end import run_to_end
    from bigmodel.planning.exhausted import explained
    from bigmodel.training.exhausted import Exhausted
    from bigmodel.training.goodput import in_words
    from bigmodel.training.outline import resolve
    from bigmodel.training.rundir import RunDir
    from bigmodel.training.signals import Interrupted

    run = RunDir(path)
    hosts.from_first(lambda: run.check(resolve(config)))
    result = hosts.from_first(run.finished)
    if result is not None:
        print(f'{path} is finished: {_headline(result)}')
        return 0
    try:
        began = time.time() - devices.process_age()
        result = run_to_end(run, config, began=began, profile=profile)
    except Interrupted as e:
        again = ' '.join(shlex.quote(a) for a in sys.argv)
        print(f'\n{e}; saved in {path}. To resume: python {again}', flush=True)
        return 128 + e.signum
    except Exhausted as e:
        print('\nout of memory: looking for what would help, about a minute', flush=True)
        raise explained(e) from e
    early = f' ({result["stopped_early"]})' if result['stopped_early'] else ''
    print(f'\nfinished in {result["seconds"]:.0f} s{early}: {_headline(result)}')
    print(f'time: {in_words(result["goodput"])}')
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
