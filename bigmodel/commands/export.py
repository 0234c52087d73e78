"""`export`: a run as a plain model: adapters merged, averages of weights in their place."""

import argparse
import json
import pathlib
import shutil
from typing import Any

from bigmodel import config as config_lib
from bigmodel.commands.open_run import STEP, load_run_config, step
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `export`."""
    parser.add_argument('--output', default='', help='the directory to make; it must not exist')
    parser.add_argument('--step', type=step, default=0, help=STEP)


def run(args: argparse.Namespace) -> int:
    """Writes a run directory that evaluate, generate and init_from read; needs no data."""
    from bigmodel import devices
    from bigmodel.params import count
    from bigmodel.training.rundir import RunDir

    config = load_run_config(args)
    output = pathlib.Path(args.output)
    if not args.output:
        raise UserError('--output=DIR is needed: the directory to write')
    if output.exists():
        raise UserError(f'--output={output} is there already; choose another')
    devices.configure(host_devices=1, rows=1)
    params, number = merged(config, args.workdir, args.step)
    partial = output.with_name(output.name + '.tmp')
    shutil.rmtree(partial, ignore_errors=True)
    _write(RunDir(pathlib.Path(args.workdir)), RunDir(partial), plain(config), params, number)
    partial.rename(output)
    print(f'{output}: step {number} of {args.workdir}, {count(params):,} parameters')
    return 0


def plain(config: ConfigDict) -> ConfigDict:
    """The config of the merged model: no adapter, nothing to start from, nothing frozen."""
    config = config.copy_and_resolve_references()
    if config.model.adapter != 'none':
        config.model.param_dtype = 'float32'  # of what it merges
    config.model.adapter, config.optimizer.ema = 'none', 0.0
    config.checkpoint.best, config.stop_early = '', ''
    config.init_from.path, config.checkpoint.only_trained = '', False
    config.optimizer.train, config.optimizer.last_layers = (('.*', True),), 0
    return config


def merged(config: ConfigDict, workdir: str, step: int | str) -> tuple[Any, int]:
    """The plain model's parameters of `step` (0: the newest, 'best') of a run, and the step."""
    import jax

    from bigmodel import params as params_lib
    from bigmodel.models.adapters import ADAPTERS
    from bigmodel.sharding import make_sharding
    from bigmodel.specs import make
    from bigmodel.training.checkpoints import Checkpoints
    from bigmodel.training.restore import checkpoint_of, restored_params

    run, chosen = checkpoint_of(workdir, step)
    checkpoints = Checkpoints(run / 'checkpoints')
    place = make_sharding('', 'dp', jax.devices()[:1]).replicated()
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for path, leaf in checkpoints.param_leaves(chosen).items()
    }
    checkpoints.close()
    params, _ = restored_params(workdir, chosen, params_lib.nest(abstract))
    adapter = make(ADAPTERS, config.model.adapter, 'model.adapter')
    return jax.jit(lambda p: adapter.merge(adapter.stored(p)))(params), chosen


def _write(theirs: Any, ours: Any, config: ConfigDict, params: Any, step: int) -> None:
    import jax.numpy as jnp

    from bigmodel.data.atomic import write_json, write_text
    from bigmodel.params import count
    from bigmodel.training.checkpoints import Checkpoints

    ours.path.mkdir(parents=True)
    write_text(ours.config, config_lib.to_json(config))
    shutil.copytree(theirs.tokenizer, ours.tokenizer)
    record = json.loads(theirs.run.read_text())
    of_training = ('base', 'num_trained', 'param_bytes', 'optimizer_bytes')
    kept = {key: value for key, value in record.items() if key not in of_training}
    exported = {'exported_from': f'{theirs.path}/checkpoints/{step}', 'num_params': count(params)}
    write_json(ours.run, kept | exported)
    checkpoints = Checkpoints(ours.checkpoints)
    checkpoints.save(step, {'step': jnp.int32(step), 'params': params})
    checkpoints.close()
