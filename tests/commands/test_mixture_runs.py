"""Runs on a mixture of sources: what is printed, recorded and measured of each."""

import json
import math

import pytest

from bigmodel.commands.main import main
from tests.commands.conftest import base


@pytest.fixture(scope='module')
def arguments(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp('prose')
    (folder / 'prose.txt').write_text('éte and winter, spring and autumn. ' * 200)
    parts = ('fox: 3', f'seasons: 1 path={folder}/prose.txt')
    flags = {'data.mixture': parts, 'evals.validation.batches': 0, 'log_every': 1}
    return [*base(text), *(f'--config.{k}={v}' for k, v in flags.items())]


@pytest.fixture(scope='module')
def run(arguments, tmp_path_factory):
    run = tmp_path_factory.mktemp('runs') / 'mixed'
    assert main(['train', *arguments, f'--workdir={run}']) == 0
    return run


def test_the_run_says_what_it_mixes(run):
    mixture = json.loads((run / 'run.json').read_text())['mixture']
    assert {name: part['weight'] for name, part in mixture.items()} == {
        'fox': 0.75,
        'seasons': 0.25,
    }
    assert all(part['rows'] > 8 and len(part['fingerprint']) == 16 for part in mixture.values())


def test_each_source_is_measured_and_they_add_up(run):
    records = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    train = next(r for r in records if r['split'] == 'train')
    mean = 0.75 * train['nll/fox'] + 0.25 * train['nll/seasons']
    # Each row of a batch of 8 has as many tokens to predict, but for those that begin a document.
    assert train['nll'] == pytest.approx(mean, rel=1e-2)
    validation = next(r for r in records if r['split'] == 'validation')
    for of in ('', '/fox', '/seasons'):
        ratio = validation[f'bits_per_byte{of}'] / validation[f'nll{of}'] * math.log(2)
        assert 0.9 < ratio <= 1.01  # bytes are the tokens


def test_evaluate_measures_each_source_too(run, capsys):
    assert main(['evaluate', f'--workdir={run}']) == 0
    found = json.loads(capsys.readouterr().out)
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    last = [r for r in map(json.loads, lines) if r['split'] == 'validation'][-1]
    for key in ('nll/fox', 'accuracy/seasons', 'bits_per_byte/seasons'):
        assert found[key] == pytest.approx(last[key], rel=1e-4)


def test_the_plan_and_prepare_show_every_source(arguments, tmp_path, capsys):
    changed = [*arguments, '--config.num_steps=1', f'--workdir={tmp_path / "run"}']
    assert main(['train', *changed]) == 0
    out = capsys.readouterr().out
    assert 'fox: 75 % of rows; text, bytes tokens' in out
    assert '\n           seasons: 25 % of rows' in out
    assert 'epochs: fox ' in out and '\n  seasons: accuracy ' in out
    assert main(['prepare', *arguments]) == 0
    out = capsys.readouterr().out
    assert 'train, fox: already there' in out and 'validation, seasons: already there' in out


def test_a_source_that_is_missing_is_an_error(text, tmp_path, capsys):
    mixture = "('fox: 3', 'lost: 1 path=/nowhere/*.txt')"
    run = tmp_path / 'run'
    assert main(['train', *base(text), f'--config.data.mixture={mixture}', f'--workdir={run}']) == 2
    error = capsys.readouterr().err
    assert 'data.mixture: lost: ' in error and '/nowhere/*.txt' in error
    assert not run.exists()


def test_another_weight_is_another_run(arguments, run, capsys):
    other = [a.replace('fox: 3', 'fox: 2') for a in arguments]
    assert main(['train', *other, f'--workdir={run}']) == 2
    assert 'data.mixture' in capsys.readouterr().err
