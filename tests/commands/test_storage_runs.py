"""Runs whose state is kept in few bits or on the host: checkpoints, resuming, other dtypes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.params import flatten, nest
from bigmodel.training.checkpoints import Checkpoints
from tests.commands.conftest import base

LEAN = {
    'model.param_dtype': 'bfloat16',
    'model.remat': 'offload',
    'optimizer.name': 'adamw',
    'optimizer.state_dtype': 'bfloat16',
    'optimizer.master': True,
    'optimizer.offload': True,
    'optimizer.ema': 0.5,
}


def test_such_a_run_resumes_bitwise_and_other_dtypes_read_it(text, tmp_path, capsys):
    from orbax.checkpoint import v1 as ocp

    run = tmp_path / 'run'
    changes = LEAN | {'num_steps': 4, 'checkpoint.every': 2}
    argv = ['train', *base(text), *(f'--config.{k}={v}' for k, v in changes.items())]
    assert main([*argv, f'--workdir={run}']) == 0

    def saved() -> dict[str, np.ndarray]:
        tree = ocp.load(run / 'checkpoints' / '4', checkpointable_name='state')
        return {path: np.asarray(x) for path, x in flatten(tree).items()}

    first = saved()
    weight = 'backbone/layers/block_0/ffn/in/weight'
    assert first[f'params/{weight}'].dtype == jnp.bfloat16
    assert {first[f'opt_state/{p}/{weight}'].dtype for p in ('average', 'optimizer/master')} == {
        np.dtype('float32')
    }
    moments = [x for path, x in first.items() if '/direction/' in path and x.ndim]
    assert moments and {x.dtype for x in moments} == {jnp.dtype('bfloat16')}

    (run / 'result.json').unlink()
    shutil.rmtree(run / 'checkpoints' / '4')
    assert main([*argv, f'--workdir={run}']) == 0
    assert 'resumed after step 2' in capsys.readouterr().out
    again = saved()
    assert again.keys() == first.keys()
    for path, x in first.items():
        assert again[path].dtype == x.dtype and again[path].tobytes() == x.tobytes(), path

    # A later run, with parameters in other dtypes, starts from the average.
    checkpoints = Checkpoints(run / 'checkpoints')
    for dtype in (jnp.float32, jnp.bfloat16):
        shapes = {k: s for k, s in checkpoints.param_shapes(4).items() if k == weight}
        wanted = nest({k: jax.ShapeDtypeStruct(s, dtype) for k, s in shapes.items()})
        read = flatten(checkpoints.restore_params(4, wanted, (('.*', True),)))[weight]
        np.testing.assert_array_equal(read, first[f'opt_state/average/{weight}'].astype(dtype))
    checkpoints.close()


def test_exact_copies_are_of_the_parameters_that_a_run_starts_from(finished_run, text, tmp_path):
    changes = {
        'model.param_dtype': 'bfloat16',
        'optimizer.master': True,
        'optimizer.learning_rate': 0.0,
        'num_steps': 1,
        'seed': 5,
        'init_from.path': str(finished_run),
    }
    run = tmp_path / 'run'
    argv = ['train', *base(text), *(f'--config.{k}={v}' for k, v in changes.items())]
    assert main([*argv, f'--workdir={run}']) == 0
    weight = 'backbone/layers/block_0/ffn/in/weight'

    def read(path):
        checkpoints = Checkpoints(path / 'checkpoints')
        step = checkpoints.latest()
        shape = checkpoints.param_shapes(step)[weight]
        wanted = nest({weight: jax.ShapeDtypeStruct(shape, jnp.bfloat16)})
        found = flatten(checkpoints.restore_params(step, wanted, (('.*', True),)))[weight]
        checkpoints.close()
        return np.asarray(found, np.float32)

    np.testing.assert_array_equal(read(run), read(finished_run))


def test_a_run_from_before_these_keys_is_as_it_was(finished_run, text, capsys):
    """Its config.json lacks them: it is the same run, and evaluates."""
    path = finished_run / 'config.json'
    plain = json.loads(path.read_text())
    now = config_lib.to_dict(config_lib.read_json(path))
    for key in ('param_dtype',):
        del plain['model'][key]
    for key in ('state_dtype', 'rounding', 'master', 'offload'):
        del plain['optimizer'][key]
    assert config_lib.diff(config_lib.of_today(plain), now) == []
