"""Runs with frozen companions through the commands: distilled, resumed, tuned on preferences."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.params import flatten
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from bigmodel.training.writers import read_jsonl
from tests.commands.conftest import base

STEPS = 6
# The teacher is finished_run; the student has another shape, dropout and the same tokens.
STUDENT = {
    'task': 'distillation',
    'model.depth': 1,
    'model.width': 32,
    'model.dropout': 0.1,
    'num_steps': STEPS,
    'log_every': 1,
    'checkpoint.every': 2,
    'checkpoint.keep': 9,
}


def flags(changes: dict) -> list[str]:
    return [f'--config.{key}={value}' for key, value in changes.items()]


def named(name: str, run: pathlib.Path) -> dict:
    return {'companions': f"('{name}: {run}',)"}


@pytest.fixture(scope='module')
def student(text, finished_run, tmp_path_factory) -> tuple[list[str], pathlib.Path]:
    """The arguments of a distilled run, and its directory."""
    argv = ['train', *base(text), *flags(STUDENT | named('teacher', finished_run))]
    run = tmp_path_factory.mktemp('runs') / 'student'
    assert main([*argv, f'--workdir={run}']) == 0
    return argv, run


@pytest.fixture(scope='module')
def preferences(tmp_path_factory) -> dict:
    """What differs in a run on pairs of responses."""
    data = tmp_path_factory.mktemp('pairs') / 'pairs.jsonl'
    rows = [
        {'prompt': f'{i}: ', 'chosen': 'lazy dog' * (i % 3 + 1), 'rejected': f'fox {i}'}
        for i in range(300)
    ]
    data.write_text('\n'.join(map(json.dumps, rows)))
    return {
        'data.source': 'jsonl',
        'data.path': data,
        'data.format': 'preference',
        'data.packing': 'pad(truncate=True)',
        'data.seq_len': 24,
        'log_every': 1,
    }


def records(run: pathlib.Path) -> list[dict]:
    times = ('seconds', 'tokens_per_second')
    rows = read_jsonl(run / 'metrics.jsonl')
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def saved(run: pathlib.Path, step: int) -> dict[str, bytes]:
    from orbax.checkpoint import v1 as ocp

    state = ocp.load(run / 'checkpoints' / str(step), checkpointable_name='state')
    return {path: np.asarray(leaf).tobytes() for path, leaf in flatten(state).items()}


def test_a_run_says_which_checkpoint_it_learned_from_and_does_not_keep_it(student, finished_run):
    _, run = student
    provenance = json.loads((run / 'run.json').read_text())
    assert provenance['companions'] == {'teacher': f'{finished_run}/checkpoints/2'}
    config = resolve(config_lib.read_json(run / 'config.json'))
    config.task, config.companions = 'causal_lm', ()
    theirs = json.loads((finished_run / 'run.json').read_text())['flops_per_token']
    alone = build(config).flops_per_token
    assert provenance['flops_per_token'] == alone + round(theirs / 3)
    paths = Checkpoints(run / 'checkpoints').shapes(STEPS)
    assert {path.split('/')[0] for path in paths} == {'step', 'params', 'opt_state'}
    last = json.loads((run / 'result.json').read_text())['metrics']['validation']
    assert last['divergence'] > 0 and last['bits_per_byte'] > 0
    assert last['loss'] == pytest.approx(0.5 * (last['nll'] + last['divergence']), rel=1e-5)


def test_stopped_and_resumed_it_is_bitwise_the_same(student, tmp_path, capsys):
    argv, run = student
    copy = tmp_path / 'copy'
    shutil.copytree(run, copy)
    (copy / 'result.json').unlink()
    for step in (4, 6):
        shutil.rmtree(copy / 'checkpoints' / str(step))
    assert main([*argv, f'--workdir={copy}']) == 0
    out = capsys.readouterr().out
    assert 'resumed after step 2' in out and 'task  distillation, teacher ' in out
    assert saved(copy, STEPS) == saved(run, STEPS)
    assert records(copy) == records(run)


def test_it_is_not_resumed_with_another_checkpoint_of_the_teacher(student, tmp_path, capsys):
    argv, run = student
    copy = tmp_path / 'copy'
    shutil.copytree(run, copy)
    (copy / 'result.json').unlink()
    provenance = json.loads((copy / 'run.json').read_text())
    provenance['companions']['teacher'] += '0'
    (copy / 'run.json').write_text(json.dumps(provenance))
    assert 'began with the companions' in refused([*argv, f'--workdir={copy}'], capsys)


def test_evaluate_repeats_the_last_evaluation_on_any_mesh(student, capsys):
    _, run = student
    want = json.loads((run / 'result.json').read_text())['metrics']['validation']
    argv = ['evaluate', f'--workdir={run}', '--batches=1']
    sharded = ['--config.sharding.mesh=data=2,fsdp=4', '--config.sharding.rules=fsdp']
    for more in ([], sharded):
        capsys.readouterr()
        assert main([*argv, *more]) == 0
        values = json.loads(capsys.readouterr().out)
        for key in ('loss', 'divergence', 'nll'):
            assert values[key] == pytest.approx(want[key], rel=1e-5), more


def test_companions_are_sharded_like_the_rest(student):
    _, run = student
    config = config_lib.read_json(run / 'config.json')
    config.sharding.mesh, config.sharding.rules = 'data=2,fsdp=4', 'fsdp'
    setup = build(resolve(config))
    with setup.sharding.active():
        found = flatten(setup.restore_companions())
    want = flatten(setup.abstract.companions)
    assert found.keys() == want.keys()
    assert all(found[path].sharding == want[path].sharding for path in want)
    assert any(not leaf.sharding.is_fully_replicated for leaf in found.values())


def test_generate_and_extrapolate_need_no_companion(student, tmp_path, capsys):
    _, run = student
    assert main(['generate', f'--workdir={run}', '--prompt=the', '--max_tokens=3']) == 0
    argv = ['extrapolate', str(run), '--length=16', '--batches=1']
    assert main([*argv, f'--picture={tmp_path / "x.png"}']) == 0


def test_dpo_begins_at_its_reference(text, finished_run, preferences, tmp_path):
    """log 2 and no margin, exactly: the reference is what `init_from` restores."""
    run = tmp_path / 'run'
    changes = {'task': 'dpo', 'init_from.path': finished_run, 'optimizer.learning_rate': 0.01}
    argv = ['train', *base(text), *flags(preferences | changes), '--config.num_steps=8']
    assert main([*argv, f'--workdir={run}']) == 0
    steps = [r for r in records(run) if r['split'] == 'train']
    assert steps[0]['loss'] == pytest.approx(np.log(2), rel=1e-6) and steps[0]['margin'] == 0
    assert steps[-1]['loss'] < 0.6 and steps[-1]['accuracy'] > 0.9
    config = config_lib.read_json(run / 'config.json')
    assert tuple(config.companions) == (f'reference: {finished_run}',)


def test_accumulated_and_with_its_kernel_checked_it_has_the_same_metrics(
    text, finished_run, preferences, tmp_path
):
    found = []
    for parts in (1, 2):
        run, changes = tmp_path / f'{parts}', {'task': 'dpo', 'init_from.path': finished_run}
        changes |= {'accumulate': parts, 'data.batch_size': 16}
        changes |= {'model.kernel': 'blockwise', 'model.check_kernel': True}
        argv = ['train', *base(text), *flags(preferences | changes), f'--workdir={run}']
        assert main(argv) == 0
        found.append([r for r in records(run) if r['split'] == 'train'][-1])
        assert json.loads((run / 'run.json').read_text())['kernel_check']['agrees']
    for key in ('loss', 'margin', 'grad_norm'):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-4)


def test_simpo_needs_no_reference(text, preferences, tmp_path):
    argv = ['train', *base(text), *flags(preferences | {'task': 'simpo'})]
    assert main([*argv, f'--workdir={tmp_path / "run"}']) == 0


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1, err
    return err


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({}, "task='distillation' needs a teacher: set companions=('teacher: RUN',)"),
        ({'companions': "('teachr: RUN',)"}, "Did you mean 'teachr'?"),
        ({'companions': "('RUN',)"}, "write 'name: run directory'"),
        ({'companions': "('teacher: /nonexistent',)"}, 'companions: teacher: there is no check'),
        ({'companions': "('teacher: RUN',)", 'data.tokenizer': 'chars'}, 'another tokenizer'),
        ({'companions': "('teacher: RUN',)", 'model.vocab_size': 259}, '320 ids, this model 259'),
        ({'task': 'dpo'}, "set companions=('reference: RUN',)"),
        ({'task': 'simpo'}, "needs data.format=preference, which teach preference; not 'text'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(changes, words, text, finished_run, capsys, tmp_path):
    changes = {k: str(v).replace('RUN', str(finished_run)) for k, v in changes.items()}
    argv = ['train', *base(text), *flags({'task': 'distillation'} | changes)]
    line = refused([*argv, f'--workdir={tmp_path / "run"}'], capsys)
    assert words in line
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('theirs', 'words'),
    [
        ({'model.head': 'mlm'}, "has the head 'mlm'"),
        ({'model.mask': 'full'}, "has the mask 'full'"),
        ({'model.position': 'learned', 'model.max_length': 9}, 'learned positions for 9 tokens'),
        ({'task': 'masked_lm'}, 'of which their tasks add 1 and 0'),
    ],
)
def test_a_model_that_cannot_be_a_teacher_is_refused(
    theirs, words, text, finished_run, tmp_path, capsys
):
    run = tmp_path / 'teacher'
    shutil.copytree(finished_run, run)
    config = config_lib.read_json(run / 'config.json')
    for key, value in theirs.items():
        config_lib.override(config, key, str(value))
    (run / 'config.json').write_text(config_lib.to_json(config))
    changes = {'task': 'distillation'} | named('teacher', run)
    assert words in refused(['train', *base(text), *flags(changes)], capsys)


def test_pairs_are_refused_by_a_task_that_reads_one_document(text, preferences, capsys):
    line = refused(['train', *base(text), *flags(preferences)], capsys)
    assert "task='causal_lm' reads one document of an example" in line
