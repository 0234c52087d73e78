"""The average of the weights, by hand; who reads it, and who does not."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.params import flatten, nest
from bigmodel.sharding import make_sharding
from bigmodel.training.averages import with_average
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import abstract_params, init_state, state_sharding
from tests.commands.conftest import base
from tests.small import quick_jit, random_params, small_config, small_model

DECAY, STEPS = 0.9, 4
FROZEN = (('inputs/.*', False), ('.*', True))


def test_it_is_the_bias_corrected_mean_of_what_was_trained() -> None:
    """Σ d^(T−t)·p_t / Σ d^(T−t); the parameters themselves move as they do without it."""
    model, config = small_model(), small_config()
    config.optimizer.ema, config.optimizer.train = DECAY, FROZEN
    plain, hparams = build_optimizer(config, abstract_params(model))
    optimizer, hparams = with_average(config, plain, hparams)
    params = start = other = random_params(model)
    state, theirs = optimizer.init(params, hparams), plain.init(params, hparams)
    ours, without = quick_jit(optimizer.update), quick_jit(plain.update)
    seen = []
    for t in range(STEPS):
        grads = plain.selection.part(random_params(model, 10 + t))
        params, state = ours(grads, state, params, jnp.int32(t), hparams)
        other, theirs = without(grads, theirs, other, jnp.int32(t), hparams)
        seen.append(flatten(params))
        got = flatten(optimizer.averaged(params, state))
        powers = DECAY ** np.arange(t, -1, -1.0)
        for path, value in got.items():
            past = np.array([s[path] for s in seen], np.float64)
            want = np.tensordot(powers / powers.sum(), past, 1)
            # Sums of four float32 numbers.
            np.testing.assert_allclose(value, want, rtol=2e-5, atol=1e-6, err_msg=path)
    jax.tree.map(np.testing.assert_array_equal, params, other)
    np.testing.assert_array_equal(got['inputs/tokens/table'], flatten(start)['inputs/tokens/table'])
    assert set(state['average']) == set(params) - {'inputs'}


def test_a_decay_outside_its_range_is_refused_and_0_is_none() -> None:
    config = small_config()
    optimizer, hparams = build_optimizer(config, abstract_params(small_model()))
    assert with_average(config, optimizer, hparams) == (optimizer, hparams)
    config.optimizer.ema = 1.0
    with pytest.raises(UserError, match=r'optimizer.ema=1.0 must be in \[0, 1\)'):
        with_average(config, optimizer, hparams)


def test_runs_evaluate_it_and_later_ones_start_from_it(tmp_path, capsys) -> None:
    text, run = tmp_path / 'text.txt', tmp_path / 'run'
    text.write_text('the quick brown fox jumps over the lazy dog. ' * 400)
    changes = ['--config.optimizer.ema=0.9', '--config.num_steps=4', '--config.checkpoint.every=2']
    argv = ['train', *base(text), *changes, f'--config.optimizer.train={FROZEN}']
    assert main([*argv, f'--workdir={run}']) == 0
    result = json.loads((run / 'result.json').read_text())['metrics']
    capsys.readouterr()
    assert main(['evaluate', f'--workdir={run}', '--batches=1']) == 0
    values = json.loads(capsys.readouterr().out)
    assert values['loss'] == pytest.approx(result['validation']['loss'], rel=1e-6)

    checkpoints = Checkpoints(run / 'checkpoints')
    shapes = {k: s for k, s in checkpoints.shapes(4).items() if k.startswith('params/')}
    bare = {
        k.removeprefix('params/'): jax.ShapeDtypeStruct(s, np.float32) for k, s in shapes.items()
    }
    from orbax.checkpoint import v1 as ocp

    saved = flatten(ocp.load(run / 'checkpoints' / '4', checkpointable_name='state'))
    read = flatten(checkpoints.restore_params(4, nest(bare), (('.*', True),)))
    checkpoints.close()
    assert read.keys() == bare.keys()
    for path, value in read.items():
        want = saved.get(f'opt_state/average/{path}', saved[f'params/{path}'])
        np.testing.assert_array_equal(value, want, err_msg=path)
    moved = 'backbone/final_norm/scale'
    assert (read[moved] != saved[f'params/{moved}']).any()

    # The run itself goes on from the last weights.
    first = {k: np.asarray(v).tobytes() for k, v in saved.items()}
    (run / 'result.json').unlink()
    shutil.rmtree(run / 'checkpoints' / '4')
    assert main([*argv, f'--workdir={run}']) == 0
    again = flatten(ocp.load(run / 'checkpoints' / '4', checkpointable_name='state'))
    assert {k: np.asarray(v).tobytes() for k, v in again.items()} == first


def test_it_lies_where_its_parameters_do() -> None:
    model, config = small_model(), small_config()
    config.optimizer.ema = DECAY
    boxed = abstract_params(model)
    optimizer, hparams = with_average(config, *build_optimizer(config, boxed))
    shapes = jax.eval_shape(lambda h: init_state(model, optimizer, h), hparams)
    places = state_sharding(make_sharding('data=2,fsdp=4', 'fsdp'), boxed, shapes)
    assert places.opt_state['average'] == places.params
    assert any(not place.is_fully_replicated for place in jax.tree.leaves(places.params))
