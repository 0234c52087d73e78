"""Runs that keep their best checkpoint and stop when they no longer get better."""

import json
import shutil

import pytest

from bigmodel.commands.main import main
from bigmodel.training.writers import read_jsonl
from tests.commands.conftest import base

# A rate at which the loss soon goes up.
CHANGES = {
    'num_steps': 40,
    'evals.validation.every': 2,
    'checkpoint.every': 7,
    'checkpoint.keep': 1,
    'checkpoint.best': 'validation/loss',
    'stop_early': 'validation/loss: patience=3',
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': 30.0,
    'optimizer.clip_norm': 0.0,
    'schedule': 'constant',
    'check_finite': False,
}


def test_the_best_checkpoint_is_kept_and_the_run_stops(text, tmp_path, capsys) -> None:
    run = tmp_path / 'run'
    args = ['train', *base(text), *(f'--config.{k}={v}' for k, v in CHANGES.items())]
    args += [f'--workdir={run}']
    assert main(args) == 0
    result = json.loads((run / 'result.json').read_text())
    best, steps = result['best'], result['steps']
    losses = {
        r['step']: r['loss']
        for r in read_jsonl(run / 'metrics.jsonl')
        if r['split'] == 'validation'
    }
    assert steps == best['step'] + 6 < 40 and 'for 3 evaluations' in result['stopped_early']
    assert best['value'] == min(losses.values()) == losses[best['step']]
    kept = {int(p.name) for p in (run / 'checkpoints').iterdir()}
    assert kept == {best['step'], steps}

    # The best checkpoint is the one that was evaluated.
    capsys.readouterr()
    command = ['evaluate', f'--workdir={run}', '--step=best', '--batches=1']
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again['step'] == best['step'] and again['loss'] == best['value']

    # Killed before the result was written, it ends the same without another step.
    (run / 'result.json').unlink()
    records = list(read_jsonl(run / 'metrics.jsonl'))
    assert main(args) == 0
    assert json.loads((run / 'result.json').read_text())['steps'] == steps
    assert list(read_jsonl(run / 'metrics.jsonl')) == records

    # Killed within the patience, it stops at the same step.
    (run / 'result.json').unlink()
    shutil.rmtree(run / 'checkpoints' / str(steps))
    assert main(args) == 0
    there = json.loads((run / 'result.json').read_text())
    assert (there['steps'], there['best']) == (steps, best)
    assert there['stopped_early'] == result['stopped_early']


@pytest.mark.parametrize('key', ['checkpoint.best', 'stop_early'])
def test_a_metric_that_no_evaluation_logs_is_refused_before_training(
    key, text, tmp_path, capsys
) -> None:
    """The scores and what is computed of a text are known too."""
    patience = ': patience=1' if key == 'stop_early' else ''
    args = ['train', *base(text), f'--workdir={tmp_path / "run"}']
    args += ["--config.evals.validation.scores=('perplexity',)"]
    args += [f'--config.{key}=validation/f1{patience}']
    assert main(args) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and f"{key}: evals.validation logs no 'f1'." in line
    assert 'It logs: accuracy, loss, nll, bits_per_byte, perplexity' in line
    assert not (tmp_path / 'run').exists()
