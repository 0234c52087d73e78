"""Runs in float16 and in int8: they learn, and go on bitwise where they were stopped."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bigmodel.commands.main import main
from bigmodel.params import flatten
from bigmodel.training.writers import read_jsonl
from tests.commands.conftest import base

FLOAT16 = {
    'model.dtype': 'float16',
    'optimizer.loss_scale': 'dynamic(initial=1e9, growth_interval=3)',
    'optimizer.ema': 0.9,
}
INT8 = {'model.matmul': 'int8(gradients="all", stochastic=True)'}


def saved(run: pathlib.Path) -> dict[str, bytes]:
    from orbax.checkpoint import v1 as ocp

    state = ocp.load(run / 'checkpoints' / '24', checkpointable_name='state')
    return {k: np.asarray(v).tobytes() for k, v in flatten(state).items()}


def logged(run: pathlib.Path) -> list[dict]:
    lines = [r for r in read_jsonl(run / 'metrics.jsonl') if r['split'] == 'train']
    return [{k: r[k] for k in r.keys() - {'seconds', 'tokens_per_second'}} for r in lines]


@pytest.mark.parametrize('changes', [FLOAT16, INT8], ids=['float16', 'int8'])
def test_a_run_learns_and_is_resumed_bitwise(changes, text, tmp_path):
    if 'model.matmul' in changes:
        pytest.importorskip('qwix')
    run = tmp_path / 'run'
    all_changes = changes | {'num_steps': 24, 'checkpoint.every': 20, 'log_every': 1}
    all_changes |= {'sharding.mesh': 'data=2', 'model.depth': 1}
    argv = ['train', *base(text), f'--workdir={run}']
    argv += [f'--config.{key}={value}' for key, value in all_changes.items()]
    assert main(argv) == 0
    first, lines = saved(run), logged(run)
    losses = [line['loss'] for line in lines]
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < losses[0] - 0.3
    if changes is FLOAT16:  # the first steps are skipped
        last = lines[-1]
        assert lines[0]['loss_scale'] == 1e9 > last['loss_scale'] and 0 < last['skipped_steps'] < 20
        assert 'grad_norm' not in lines[0] and 'grad_norm' in last
        assert {'loss_scale/scale', 'loss_scale/finite_steps'} <= first.keys()
    (run / 'result.json').unlink()
    shutil.rmtree(run / 'checkpoints' / '24')
    assert main(argv) == 0
    assert saved(run) == first and logged(run) == lines
    result = json.loads((run / 'result.json').read_text())['metrics']
    assert np.isfinite(result['validation']['loss'])
