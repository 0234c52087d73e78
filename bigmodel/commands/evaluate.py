"""`evaluate`: metrics of a checkpoint on a split."""

import argparse
import json

from bigmodel.commands.open_run import STEP, load_run_config, step
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    parser.add_argument('--eval', default='', help='entry of evals; default: validation')
    parser.add_argument('--split', default='', help='train, validation or test; that of the entry')
    parser.add_argument('--batches', type=int, default=0, help='0: the whole split')
    parser.add_argument('--step', type=step, default=0, help=STEP)


def run(args: argparse.Namespace) -> int:
    """Prints one JSON object with the metrics."""
    from bigmodel import devices
    from bigmodel.training.evaluate import Evaluation, judge_of
    from bigmodel.training.restore import restored_params
    from bigmodel.training.setup import build, resolve

    config = resolve(load_run_config(args))
    name, entry = chosen(args, config)
    config.accumulate = 1
    config.init_from.path = ''  # the run's own checkpoint says it all
    devices.configure(config.sharding.host_devices, config.data.batch_size)
    setup = build(config)
    params, number = restored_params(args.workdir, args.step, setup.abstract.params)
    with setup.sharding.active():
        evaluation = Evaluation(setup, name, entry, judge_of(setup))
        values = evaluation(params, setup.restore_companions())
    if 'bits_per_byte' in values:
        values['gzip_bits_per_byte'] = evaluation.data.store.gzip_bits_per_byte
    about = {'run': args.workdir, 'step': number, 'eval': name, 'split': entry.split}
    print(json.dumps(about | values, indent=2))
    return 0


def chosen(args: argparse.Namespace, config: ConfigDict) -> tuple[str, ConfigDict]:
    """The entry of `evals` that `--eval` names, with the split and the batches of the arguments."""
    if not config.evals:
        raise UserError(f'{args.workdir} has no evals, which say what to evaluate')
    name = args.eval or min(config.evals, key=lambda name: name != 'validation')
    if name not in config.evals:
        raise unknown('entry of evals', name, config.evals)
    entry = config.evals[name].copy_and_resolve_references()
    entry.split, entry.batches = args.split or entry.split, args.batches
    return name, entry
