"""A prefix LM and a decoder of spans train, go on from a prompt, and are no companions."""

import json
import pathlib

import pytest

from bigmodel.commands.main import main
from tests.commands.conftest import base
from tests.commands.test_bad_input import refused

TASKS = {
    'prefix_lm': ['--config.task=prefix_lm', '--config.sample=the quick'],
    'ul2': [
        '--config.task=ul2(sentinels=8, decoder_only=True)',
        '--config.model.max_length=24',
        '--config.sample=the <extra_id_0> fox',
    ],
}


@pytest.fixture(scope='module', params=TASKS)
def prefix_run(request, text, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / request.param
    argv = ['train', *base(text), '--config.model.mask=prefix', *TASKS[request.param]]
    assert main([*argv, f'--workdir={run}']) == 0
    return run


def test_a_run_has_a_sample_and_goes_on_from_a_prompt(prefix_run, capsys):
    assert (prefix_run / 'samples.txt').exists()
    result = json.loads((prefix_run / 'result.json').read_text())['metrics']['validation']
    assert set(result) == {'loss', 'nll', 'accuracy'}
    argv = ['generate', f'--workdir={prefix_run}', '--prompt=the', '--max_tokens=8']
    capsys.readouterr()
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert main(argv) == 0
    assert capsys.readouterr().out == first


def test_it_is_no_companion_and_has_no_loss_by_position(prefix_run, text, capsys):
    argv = ['show', *base(text), '--config.task=distillation']
    argv.append(f"--config.companions=('teacher: {prefix_run}',)")
    line = refused(['train', *argv[1:], f'--workdir={prefix_run.parent / "x"}'], capsys)
    assert 'reads a prefix from both sides; name a causal decoder' in line
    assert 'only causal_lm has a loss by position' in refused(
        ['extrapolate', str(prefix_run)], capsys
    )


def test_rows_longer_than_the_learned_positions_are_refused(text, capsys):
    argv = ['show', *base(text), '--config.model.mask=prefix', *TASKS['ul2'][:1]]
    line = refused(argv, capsys)
    assert 'makes rows of 23 tokens, but model.max_length=16; set it to 23' in line
