"""`plan`: what a config takes on a pod, compiled for it on a machine without accelerators."""

import argparse
import math
import os
from typing import TYPE_CHECKING

from bigmodel.commands.open_run import config_path, load_config
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError

if TYPE_CHECKING:  # it imports JAX
    from bigmodel.planning.topology import Topology

COMPILED = 3  # of a search at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `plan`."""
    add = parser.add_argument
    add('--topology', default='', help='v5p:8x8x4, or GPUs a node × nodes: h100:8x4')
    add('--mesh', default='', help="instead of sharding.mesh: 'fsdp=256'")
    add('--rules', default='', help='instead of sharding.rules: fsdp_tensor')
    add('--tokens', type=float, default=0.0, help='token budget, instead of num_steps: 15e12')
    add('--analytic', action='store_true', help='by a model of the step, without compiling')
    add('--search', action='store_true', help='rank meshes, remat policies and batch sizes')
    add('--sweep', action='store_true', help='--config is a sweep file: plan each arm')


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns 1 when what was asked for does not fit."""
    # The machine's own devices are not asked for; JAX would look for a TPU where libtpu is.
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    from bigmodel.planning.topology import parse_topology

    if not args.topology:
        raise UserError('--topology=KIND:SHAPE is needed, such as v5p:8x8x4 or h100:8x4')
    if args.search and args.sweep:
        raise UserError('give --search or --sweep, not both')
    if args.tokens < 0:
        raise UserError(f'--tokens={args.tokens:g} must not be negative')
    topology = parse_topology(args.topology)
    if args.sweep:
        return _plan_sweep(args, topology)
    config = _with_options(load_config(args), args)
    return _search(config, topology, args) if args.search else _plan(config, topology, args)


def _plan(config: ConfigDict, topology: 'Topology', args: argparse.Namespace) -> int:
    from bigmodel.planning.planned import planned
    from bigmodel.planning.report import report

    found = planned(config, topology, args.analytic)
    print('\n'.join(report(found.plan, topology, found.costs, found.estimate)))
    return 0 if found.fits else 1


def _search(config: ConfigDict, topology: 'Topology', args: argparse.Namespace) -> int:
    """Ranks by the model; the best ones are compiled until one fits, where that can be done."""
    from bigmodel.planning.search import search, table

    found, _ = search(config, topology)
    print('\n'.join(table(found)), flush=True)
    for each in found[:COMPILED]:
        print()
        try:
            code = _plan(each.plan.config, topology, args)
        except UserError as e:
            code = 1
            print(f'{each.plan.config.sharding.mesh}: {e}')
        if not code:
            return 0
    return 1


def _plan_sweep(args: argparse.Namespace, topology: 'Topology') -> int:
    from bigmodel.planning.compiled import DoesNotFit
    from bigmodel.planning.planned import planned
    from bigmodel.planning.search import table
    from bigmodel.sweeps.plan import read_plan

    if not args.config:
        raise UserError('--config=FILE is needed, a file that defines sweep()')
    plan = read_plan(config_path(args.config), args.overrides)
    found, refused = {}, {}
    for arm in plan.arms:
        config = _with_options(plan.config(arm, plan.seeds[0]), args)
        try:
            found[arm.name] = planned(config, topology, args.analytic)
        except DoesNotFit as e:
            refused[arm.name] = str(e)
        except UserError as e:
            raise UserError(f'arm {arm.name}: {e}') from e
    names = [' ' * 3, *found]
    width = max(map(len, (*names, *refused)))
    lines = table(list(found.values()))
    print('\n'.join(f'{n:<{width}}  {line}' for n, line in zip(names, lines, strict=True)))
    print(''.join(f'{name:<{width}}  {why}\n' for name, why in refused.items()), end='')
    return 0 if not refused and all(p.fits for p in found.values()) else 1


def _with_options(config: ConfigDict, args: argparse.Namespace) -> ConfigDict:
    if args.mesh:
        config.sharding.mesh = args.mesh
    if args.rules:
        config.sharding.rules = args.rules
    if args.tokens:
        if not 0 < args.tokens < math.inf:
            raise UserError(f'--tokens={args.tokens} must be a number of tokens')
        update = max(config.data.batch_size * config.data.seq_len, 1)
        config.num_steps = max(1, round(args.tokens / update))
    return config
