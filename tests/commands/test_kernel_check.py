"""`model.check_kernel`: kernels that agree pass, others stop a run, and `run.json` says it."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.layers.kernels import KERNELS
from bigmodel.layers.masks import Causal, Window
from bigmodel.layers.reference import Reference
from bigmodel.training.kernel_check import check_kernels, require, summary
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from tests.commands.conftest import CARD, base


class Shortsighted(Reference):
    """Wrong: it leaves out the oldest key of a window."""

    def __call__(self, q: Any, k: Any, v: Any, mask: Any, *rest: Any, **more: Any) -> jax.Array:
        return super().__call__(q, k, v, mask & Window(15), *rest, **more)


class Unteachable(Reference):
    """Right values, but keys get no gradient."""

    def __call__(self, q: Any, k: Any, *rest: Any, **more: Any) -> jax.Array:
        return super().__call__(q, jax.lax.stop_gradient(k), *rest, **more)


class Undefined(Reference):
    """NaN where it should be a number."""

    def __call__(self, *args: Any, **more: Any) -> jax.Array:
        return super().__call__(*args, **more) * np.nan


def test_a_wrong_kernel_stops_the_run(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(KERNELS, 'wrong', Unteachable)
    run = tmp_path / 'run'
    changes = ['--config.model.kernel=wrong', '--config.model.check_kernel=True']
    changes.append('--config.model.mask=window(16)')
    assert main(['train', *base(text), *changes, f'--workdir={run}']) == 2
    err = capsys.readouterr().err
    assert 'model.kernel: wrong does not agree with reference' in err and 'Window(size=16)' in err
    found = json.loads((run / 'run.json').read_text())['kernel_check']
    assert not found['agrees'] and not found['calls'][0]['agrees']
    assert found['calls'][0]['output'] == 0 and found['calls'][0]['gradients'] > 0.1
    assert not (run / 'metrics.jsonl').exists()


@pytest.mark.parametrize('wrong', [Shortsighted, Undefined])
def test_wrong_values_are_found(wrong, text, monkeypatch):
    monkeypatch.setitem(KERNELS, 'wrong', wrong)
    config = config_lib.load(CARD)
    for flag in base(text)[1:]:
        config_lib.override(config, *flag.removeprefix('--config.').split('=', 1))
    config.model.update(kernel='wrong', mask='window(16)')
    setup = build(resolve(config))
    with setup.sharding.active():
        report = check_kernels(setup, setup.initial_state().params)
    assert not report['agrees'] and report['calls'][0]['output'] > 0.1
    assert json.loads(json.dumps(report, allow_nan=False)) and 'not agree' in summary(report)
    with pytest.raises(UserError, match='does not agree'):
        require(report)


def test_a_run_writes_what_it_checked(text, tmp_path, capsys):
    run = tmp_path / 'run'
    changes = ['--config.model.kernel=fused', '--config.model.check_kernel=True']
    assert main(['train', *base(text), *changes, f'--workdir={run}']) == 0
    assert 'fused agrees with reference' in capsys.readouterr().out
    (call,) = json.loads((run / 'run.json').read_text())['kernel_check']['calls']
    assert call['kernel'] == 'fused' and call['queries'][1:] == [16, 2, 8]
    assert call['agrees'] and 0 < call['gradients'] < call['tolerance'] == 1e-4


@pytest.mark.parametrize(
    ('kernel', 'dtype', 'position', 'weights'),
    [
        ('blockwise(block_size=48)', 'float32', 't5', 'sinks'),
        ('fused', 'bfloat16', 't5', 'softmax'),
        ('splash(interpret=True)', 'float32', 'rope', 'softmax(cap=20)'),
        ('reference', 'float32', 't5', 'sinks'),
    ],
)
def test_kernels_agree_at_the_quickstarts_shape(kernel, dtype, position, weights, text):
    """With a learned bias, two masks and learned sinks where the kernel takes them."""
    config = config_lib.load(CARD)
    config.data.source, config.data.path = 'text', str(text)
    config.data.seq_len, config.data.batch_size, config.sharding.mesh = 128, 16, 'data=2'
    config.model.update(kernel=kernel, position=position, dtype=dtype)
    config.model.mixer = f'attention(weights="{weights}")'
    config.model.pattern = 'window(32)', 'causal'
    setup = build(resolve(config))
    with setup.sharding.active():
        report = check_kernels(setup, setup.initial_state().params)
    require(report)
    if kernel == 'reference':
        assert report == {'agrees': True, 'calls': []}
        assert summary(report) == 'nothing to check: all is the reference'
        return
    assert report['agrees'] and len(report['calls']) == 2
    for call in report['calls']:
        assert 0 < call['output'] < call['tolerance'] and 0 < call['gradients'] < call['tolerance']
        assert call['queries'] == (2, 128, 4, 32) and call['dtype'] == dtype
    masks = [call['mask'] for call in report['calls']]
    assert str(Causal()) in masks[1] and str(Window(32)) in masks[0]
