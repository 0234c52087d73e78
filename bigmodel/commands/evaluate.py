"""`evaluate`: metrics of a checkpoint on a split."""

import argparse
import json
import shlex
from typing import Any, NamedTuple

from bigmodel.commands.open_run import STEP, load_run_config, step
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    parser.add_argument('--eval', default='', help='entry of evals; default: validation')
    parser.add_argument('--split', default='', help='train, validation or test; that of the entry')
    parser.add_argument('--predictions', default='', help='JSONL file for those of each example')
    parser.add_argument('--batches', type=int, default=0, help='0: the whole split')
    parser.add_argument('--step', type=step, default=0, help=STEP)


def run(args: argparse.Namespace) -> int:
    """Prints one JSON object with the metrics; writes predictions where they are asked for."""
    run = opened(args, args.predictions, '--predictions', texts=bool(args.predictions))
    with run.setup.sharding.active():
        values, results = run.evaluation.scored(run.params, run.setup.restore_companions())
    if args.predictions:
        from bigmodel.training.predictions import predictions, write_lines

        write_lines(args.predictions, predictions(run.evaluation, results), '--predictions')
    if 'bits_per_byte' in values:
        values['gzip_bits_per_byte'] = run.evaluation.data.store.gzip_bits_per_byte
    about = {'run': args.workdir, 'step': run.step, 'eval': run.name}
    print(json.dumps(about | {'split': run.evaluation.split} | values, indent=2))
    return 0


class Opened(NamedTuple):
    """A run's checkpoint, and what it is evaluated on."""

    setup: Any
    evaluation: Any
    params: Any
    step: int
    name: str


def opened(
    args: argparse.Namespace,
    output: str,
    option: str,
    labelled: bool = True,
    texts: bool = False,
) -> Opened:
    """What the arguments name. Overrides of `data` are of what is evaluated, not of the run;
    `texts` are generated where the task has them. `output` is what the `option` names, if anything.

    Raises UserError for what does not fit the run, and for an output that cannot be written.
    """
    from bigmodel import devices
    from bigmodel.training.evaluate import Evaluation, judges_of
    from bigmodel.training.evaluated import KEYS
    from bigmodel.training.outline import resolve
    from bigmodel.training.predictions import check_output
    from bigmodel.training.restore import restored_params
    from bigmodel.training.setup import build

    keys = {f'data.{key}' for key in KEYS}
    changes = [(key, text) for key, text in args.overrides if key in keys]
    args.overrides = [pair for pair in args.overrides if pair not in changes]
    config = resolve(load_run_config(args))
    name, entry = chosen(args, config)
    given = [shlex.quote(f'{key.removeprefix("data.")}={text}') for key, text in changes]
    entry.data = ' '.join([entry.data, *given])
    config.accumulate = 1
    # The run's own checkpoint says it all.
    config.init_from.path, config.checkpoint.only_trained = '', False
    devices.configure(config.sharding.host_devices, config.data.batch_size)
    if output:
        check_output(output, option)
    setup = build(config)
    params, number = restored_params(args.workdir, args.step, setup.abstract.params)
    with setup.sharding.active():
        evaluation = Evaluation(setup, name, entry, judges_of(setup), labelled, texts)
    return Opened(setup, evaluation, params, number, name)


def chosen(args: argparse.Namespace, config: ConfigDict) -> tuple[str, ConfigDict]:
    """The entry of `evals` that `--eval` names, with the split and the batches of the arguments."""
    if not config.evals:
        raise UserError(f'{args.workdir} has no evals, which say what to evaluate')
    name = args.eval or min(config.evals, key=lambda name: name != 'validation')
    if name not in config.evals:
        raise unknown('entry of evals', name, config.evals)
    if args.batches < 0:
        raise UserError(f'--batches={args.batches} must not be negative; 0: the whole split')
    entry = config.evals[name].copy_and_resolve_references()
    entry.split, entry.batches = args.split or entry.split, args.batches
    return name, entry
