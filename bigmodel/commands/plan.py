"""`plan`: what a config takes on a pod, compiled for it on a machine without accelerators."""

import argparse

from bigmodel.commands.open_run import load_config
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `plan`."""
    add = parser.add_argument
    add('--topology', default='', help='v5p:8x8x4, or GPUs a node × nodes: h100:8x4')
    add('--mesh', default='', help="instead of sharding.mesh: 'fsdp=256'")
    add('--rules', default='', help='instead of sharding.rules: fsdp_tensor')
    add('--tokens', type=float, default=0.0, help='token budget, instead of num_steps: 15e12')
    add('--analytic', action='store_true', help='by a model of the step, without compiling')


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns 1 when it does not fit."""
    from bigmodel.planning.planned import planned
    from bigmodel.planning.report import report
    from bigmodel.planning.topology import parse_topology

    if not args.topology:
        raise UserError('--topology=KIND:SHAPE is needed, such as v5p:8x8x4 or h100:8x4')
    topology = parse_topology(args.topology)
    config = _with_options(load_config(args), args)
    found = planned(config, topology, args.analytic)
    print('\n'.join(report(found.plan, topology, found.costs, found.estimate)))
    return 0 if found.fits else 1


def _with_options(config: ConfigDict, args: argparse.Namespace) -> ConfigDict:
    if args.mesh:
        config.sharding.mesh = args.mesh
    if args.rules:
        config.sharding.rules = args.rules
    if args.tokens:
        step = config.data.batch_size * config.data.seq_len
        config.num_steps = max(1, round(args.tokens / step))
    return config
