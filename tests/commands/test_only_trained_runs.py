"""Checkpoints of what is trained alone: sizes, resuming, reading, and a base that has changed."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from bigmodel.commands.main import main
from bigmodel.params import flatten
from bigmodel.training.checkpoints import Checkpoints
from tests.commands.conftest import base

STEPS = 4
ADAPTER = {
    'model.adapter': 'lora(rank=2)',
    'optimizer.train': "(('(adapter|backbone/final_norm)/.*', True), ('.*', False))",
}
QUANTISED = ADAPTER | {'model.adapter': 'qlora(rank=2, block=16)'}
LAST = {'optimizer.last_layers': 1}
WAYS = {
    'adapter': ADAPTER,
    'quantised': QUANTISED,
    'last_layers': LAST,
    'average': LAST | {'optimizer.ema': 0.5},
}


def arguments(text: pathlib.Path, start: pathlib.Path, only: bool, **changes: Any) -> list[str]:
    changes = {
        'init_from.path': start,
        'checkpoint.only_trained': only,
        'checkpoint.every': 2,
        'num_steps': STEPS,
        'log_every': 1,
    } | changes
    return ['train', *base(text), *(f'--config.{k}={v}' for k, v in changes.items())]


def saved(run: pathlib.Path, step: int = STEPS) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    state = ocp.load(run / 'checkpoints' / str(step), checkpointable_name='state')
    return {path: np.asarray(leaf) for path, leaf in flatten(state).items()}


@pytest.fixture(scope='module', params=WAYS)
def runs(request, text, finished_run, tmp_path_factory) -> tuple[dict, pathlib.Path, pathlib.Path]:
    """What is trained, a run whose checkpoints hold that alone, and one that has all of them."""
    changes = WAYS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    for only in (True, False):
        argv = arguments(text, finished_run, only, **changes)
        assert main([*argv, f'--workdir={folder / str(only)}']) == 0
    return changes, folder / 'True', folder / 'False'


def evaluated(run: pathlib.Path, capsys) -> dict:
    capsys.readouterr()
    assert main(['evaluate', f'--workdir={run}', '--batches=1']) == 0
    return json.loads(capsys.readouterr().out)


def test_a_checkpoint_holds_what_is_trained_and_all_else_is_the_same(runs, finished_run):
    _, small, large = runs
    few, all_ = saved(small), saved(large)
    record = json.loads((small / 'run.json').read_text())
    assert record['base']['checkpoint'] == f'{finished_run}/checkpoints/2'
    assert json.loads((large / 'run.json').read_text())['base'] == {}
    numbers = sum(x.size for path, x in few.items() if path.startswith('params/'))
    assert numbers == record['num_trained'] < record['num_params']
    assert few.keys() <= all_.keys()
    for path, x in few.items():
        np.testing.assert_array_equal(x, all_[path][-len(x) :] if x.ndim else all_[path])
    left_out = {p.removeprefix('params/') for p in all_.keys() - few.keys()}
    assert left_out <= set(record['base']['parameters'])
    assert 'inputs/tokens/table' in left_out


def test_it_is_read_as_the_whole_one_is(runs, capsys):
    _, small, large = runs
    few, all_ = evaluated(small, capsys), evaluated(large, capsys)
    assert few.pop('run') != all_.pop('run') and few == all_
    texts = []
    for run in (small, large):
        argv = ['generate', f'--workdir={run}', '--prompt=the ', '--max_tokens=8']
        assert main(argv) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_killed_and_resumed_it_is_bitwise_the_same(runs, text, finished_run, tmp_path):
    changes, small, _ = runs
    copy = tmp_path / 'copy'
    shutil.copytree(small, copy)
    shutil.rmtree(copy / 'checkpoints' / str(STEPS))
    (copy / 'result.json').unlink()
    assert main([*arguments(text, finished_run, True, **changes), f'--workdir={copy}']) == 0
    ours, theirs = saved(copy), saved(small)
    assert {p: x.tobytes() for p, x in ours.items()} == {p: x.tobytes() for p, x in theirs.items()}


def test_runs_start_from_it_also_those_that_leave_it_out(runs, text, tmp_path, capsys):
    """A base may have a base of its own."""
    changes, small, large = runs
    more = changes | {'num_steps': 1}
    ends = []
    for start, only in ((small, True), (large, False)):
        run = tmp_path / str(only)
        assert main([*arguments(text, start, only, **more), f'--workdir={run}']) == 0
        ends.append({k: v for k, v in evaluated(run, capsys).items() if k != 'run'})
    assert ends[0] == ends[1]


def test_a_teacher_may_be_one(runs, text, tmp_path):
    _, small, large = runs
    losses = []
    for teacher in (small, large):
        run = tmp_path / teacher.name
        changes = {'task': 'distillation', 'companions': f"('teacher: {teacher}',)", 'num_steps': 1}
        argv = ['train', *base(text), *(f'--config.{k}={v}' for k, v in changes.items())]
        assert main([*argv, f'--workdir={run}']) == 0
        losses.append(json.loads((run / 'result.json').read_text())['metrics']['validation'])
    assert losses[0] == losses[1]


def test_a_base_that_changed_or_is_missing_is_named(text, finished_run, tmp_path, capsys):
    start, run = tmp_path / 'start', tmp_path / 'run'
    shutil.copytree(finished_run, start)
    argv = [*arguments(text, start, True, **ADAPTER), f'--workdir={run}']
    assert main(argv) == 0
    checkpoint = start / 'checkpoints' / '2'
    largest = max((p for p in checkpoint.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    capsys.readouterr()
    assert main(['evaluate', f'--workdir={run}', '--batches=1']) == 2
    assert f'{checkpoint}, which is no longer what it was' in capsys.readouterr().err
    shutil.rmtree(start)
    assert main(['generate', f'--workdir={run}', '--prompt=the ']) == 2
    assert f'{checkpoint}, which is not there' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'init_from.path': ''}, 'init_from.path, which is empty; name a run to start from'),
        ({}, 'optimizer.train trains all that init_from.restore restores'),
    ],
)
def test_nothing_to_leave_out_is_refused(changes, message, text, finished_run, tmp_path, capsys):
    argv = arguments(text, finished_run, True, **changes)
    assert main([*argv, f'--workdir={tmp_path / "run"}']) == 2
    assert message in capsys.readouterr().err


def test_a_random_frozen_parameter_is_saved(text, finished_run, tmp_path):
    restore = "(('(adapter|backbone/final_norm)/.*', False), ('.*', True))"
    train = "(('adapter/.*', True), ('.*', False))"
    changes = ADAPTER | {'init_from.restore': restore, 'optimizer.train': train, 'num_steps': 1}
    run = tmp_path / 'run'
    assert main([*arguments(text, finished_run, True, **changes), f'--workdir={run}']) == 0
    found = Checkpoints(run / 'checkpoints').shapes(1)
    own = {p.split('/')[1] for p in found if p.startswith('params/')}
    assert own == {'adapter', 'backbone'} and 'params/backbone/final_norm/scale' in found
