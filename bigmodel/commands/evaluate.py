"""`evaluate`: metrics of a checkpoint on a split."""

import argparse
import json
from functools import partial

from bigmodel.commands.open_run import load_run_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    parser.add_argument('--split', default='validation', help='train, validation or test')
    parser.add_argument('--batches', type=int, default=0, help='0: the whole split')
    parser.add_argument('--step', type=int, default=0, help='of the checkpoint; 0: the newest')


def run(args: argparse.Namespace) -> int:
    """Prints one JSON object with the metrics."""
    import jax

    from bigmodel import devices
    from bigmodel.tasks.by_source import by_source
    from bigmodel.training.evaluate import evaluate
    from bigmodel.training.restore import restored_params
    from bigmodel.training.setup import build, resolve
    from bigmodel.training.step import make_eval_step

    config = resolve(load_run_config(args))
    config.accumulate = 1
    # The run's own checkpoint says it all.
    config.init_from.path, config.checkpoint.only_trained = '', False
    devices.configure(config.sharding.host_devices, config.data.batch_size)
    setup = build(config)
    params, step = restored_params(args.workdir, args.step, setup.abstract.params)
    with setup.sharding.active():
        data = setup.open_split(args.split)
        task = by_source(setup.task, setup.data.parts)
        eval_step = jax.jit(make_eval_step(setup.model, task, setup.companion_models))
        step_of = partial(eval_step, companions=setup.restore_companions())
        values = evaluate(setup, step_of, params, data, args.batches)
    if 'bits_per_byte' in values:
        values['gzip_bits_per_byte'] = data.store.gzip_bits_per_byte
    print(json.dumps({'run': args.workdir, 'step': step, 'split': args.split, **values}, indent=2))
    return 0
