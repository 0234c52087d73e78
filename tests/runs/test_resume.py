"""A run that is killed and started again is the run that was left alone."""

import json
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest

from bigmodel.training.goodput import KINDS
from bigmodel.training.writers import read_jsonl

STEPS = 60
TIMES = ('seconds', 'tokens_per_second')


@pytest.fixture(scope='module')
def args(small_args: list[str]) -> list[str]:
    return [
        'train',
        '--config=experiments/quickstart.py',
        *small_args,
        f'--config.num_steps={STEPS}',
        '--config.checkpoint.every=7',
        '--config.model.dropout=0.1',
    ]


@pytest.fixture(scope='module')
def undisturbed(
    args: list[str], launch: Callable, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / 'undisturbed'
    launch(*args, f'--workdir={run}')
    return run


def metrics(run: pathlib.Path) -> list[dict]:
    records = read_jsonl(run / 'metrics.jsonl')
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def final_arrays(run: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: parameters, optimizer state, step."""
    from orbax.checkpoint import v1 as ocp

    from bigmodel.params import flatten

    state = ocp.load(run / 'checkpoints' / str(STEPS), checkpointable_name='state')
    return {path: np.asarray(leaf) for path, leaf in flatten(state).items()}


def assert_same_run(run: pathlib.Path, other: pathlib.Path) -> None:
    ours, theirs = final_arrays(run), final_arrays(other)
    assert ours.keys() == theirs.keys()
    assert any(path.startswith('opt_state') for path in ours)
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype, path
        assert array.tobytes() == theirs[path].tobytes(), path
    assert metrics(run) == metrics(other)
    results = [json.loads((r / 'result.json').read_text())['metrics'] for r in (run, other)]
    assert results[0] == results[1]


def assert_accounted(run: pathlib.Path) -> None:
    """Of a run that was killed once: what it made again is lost, and all of its time is told."""
    found = json.loads((run / 'result.json').read_text())['goodput']
    times = list(read_jsonl(run / 'times.jsonl'))
    _, resumed = (i for i, line in enumerate(times) if 'began' in line)
    assert found['restarts'] == 1 and found['since_step'] == 0
    start = times[resumed]['step']
    assert found['lost_steps'] == max(times[resumed - 1]['step'] - start, 0)
    assert (found['lost'] > 0) == (found['lost_steps'] > 0)
    parts = ('productive_seconds', 'lost', 'down', *(k for k in KINDS if k != 'compute'))
    # Each is rounded to a millisecond.
    assert sum(found[part] for part in parts) == pytest.approx(found['wall_seconds'], abs=0.006)
    assert found['productive_seconds'] > 0 and 0 < found['down'] < found['wall_seconds']


def kill_when(process: subprocess.Popen, ready: Callable[[], bool], signum: int) -> bool:
    """Sends the signal as soon as `ready`; False when the process ended before."""
    while process.poll() is None:
        if ready():
            process.send_signal(signum)
            return True
        time.sleep(0.001)
    return False


def last_step(run: pathlib.Path) -> int:
    return max((r['step'] for r in read_jsonl(run / 'metrics.jsonl')), default=0)


@pytest.mark.parametrize('step', [2, 23, 51])
def test_killed_at_a_step_and_started_again_is_bitwise_the_same(
    step, args, start, launch, undisturbed, tmp_path
):
    run = tmp_path / 'run'
    process = start(*args, f'--workdir={run}')
    assert kill_when(process, lambda: last_step(run) >= step, signal.SIGKILL)
    process.communicate()
    assert not (run / 'result.json').exists()
    launch(*args, f'--workdir={run}')
    assert_same_run(run, undisturbed)
    assert_accounted(run)


def test_killed_while_a_checkpoint_is_written_is_bitwise_the_same(
    args, start, launch, undisturbed, tmp_path
):
    run = tmp_path / 'run'
    process = start(*args, f'--workdir={run}')
    unfinished = lambda: any((run / 'checkpoints').glob('*tmp*'))  # noqa: E731
    assert kill_when(process, lambda: last_step(run) > 10 and unfinished(), signal.SIGKILL)
    process.communicate()
    launch(*args, f'--workdir={run}')
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize(('signum', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_resume_and_loses_nothing(
    signum, code, args, start, launch, undisturbed, tmp_path
):
    run = tmp_path / 'run'
    process = start(*args, f'--workdir={run}')
    assert kill_when(process, lambda: last_step(run) >= 17, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert 'To resume: python launch.py train' in out
    assert 'Traceback' not in err
    stopped = last_step(run)
    assert (run / 'checkpoints' / str(stopped)).is_dir()  # the step in flight is saved
    out = launch(*args, f'--workdir={run}').stdout
    assert f'resumed after step {stopped}' in out
    assert_same_run(run, undisturbed)


def test_a_finished_run_says_so_and_changes_nothing(args, launch, undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob('*')}
    out = launch(*args, f'--workdir={undisturbed}').stdout
    assert 'is finished' in out
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob('*')} == before


def test_another_config_in_the_directory_is_refused_with_the_difference(args, launch, undisturbed):
    done = launch(*args, '--config.seed=7', f'--workdir={undisturbed}', expect=2)
    assert 'seed: 0 -> 7' in done.stderr
    assert done.stderr.count('\n') == 1


def test_the_run_directory_keeps_its_contract(undisturbed):
    there = {p.name for p in undisturbed.iterdir()}
    assert there == {
        'checkpoints',
        'config.json',
        'loss.png',
        'metrics.jsonl',
        'result.json',
        'run.json',
        'tensorboard',
        'times.jsonl',
        'tokenizer',
    }
    run = json.loads((undisturbed / 'run.json').read_text())
    assert run['kernel'] == 'reference' and run['mesh']['data'] == 2
    result = json.loads((undisturbed / 'result.json').read_text())
    assert result['tokens'] == STEPS * 8 * 32 and result['mfu'] is None
    assert result['metrics']['validation']['bits_per_byte'] > 0
    assert (undisturbed / 'loss.png').read_bytes().startswith(b'\x89PNG')
    assert list((undisturbed / 'tensorboard').glob('events*'))
    kept = sorted(int(p.name) for p in (undisturbed / 'checkpoints').iterdir())
    assert kept == [56, STEPS]


def test_training_learns(undisturbed):
    losses = [r['loss'] for r in metrics(undisturbed) if r['split'] == 'train']
    assert losses[-1] < losses[0] - 1
