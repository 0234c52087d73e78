"""A probe trains, evaluates and resumes through the commands like text."""

import json

import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.errors import UserError
from tests.commands.conftest import ROOT, base

SOURCE = '--config.data.source=mqar(pairs=2, held_out=16)'


def losses(run) -> list[float]:
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [r['loss'] for r in map(json.loads, lines) if r.get('split', 'train') == 'train']


def test_a_probe_trains_and_is_measured_by_its_answers(text, tmp_path, capsys):
    run = tmp_path / 'run'
    assert main(['train', *base(text), SOURCE, f'--workdir={run}']) == 0
    out = capsys.readouterr().out
    assert '65 symbols, 2 answers a row' in out and 'bytes tokens' not in out
    values = json.loads((run / 'result.json').read_text())['metrics']['validation']
    assert 0 <= values['accuracy'] <= 1 and 'bits_per_byte' not in values
    assert main(['evaluate', f'--workdir={run}', '--split=test']) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested['nll'] > 0 and tested['nll'] != values['nll']
    assert main(['generate', f'--workdir={run}', '--prompt=!!', '--max_tokens=4']) == 0


def test_a_probe_started_again_goes_on_as_if_it_had_not_stopped(text, tmp_path):
    args = ['train', *base(text), SOURCE, '--config.log_every=1', '--config.num_steps=4']
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    args += ['--config.checkpoint.every=1', '--config.checkpoint.keep=4']
    assert main([*args, f'--workdir={whole}']) == 0
    assert main([*args, f'--workdir={parts}']) == 0
    # As a kill after step 2 leaves it.
    (parts / 'result.json').unlink()
    for step in (3, 4):
        for file in sorted((parts / 'checkpoints' / str(step)).rglob('*'), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (parts / 'checkpoints' / str(step)).rmdir()
    assert main([*args, f'--workdir={parts}']) == 0
    np.testing.assert_array_equal(losses(parts), losses(whole))
    results = [json.loads((r / 'result.json').read_text())['metrics'] for r in (whole, parts)]
    assert results[0]['validation'] == results[1]['validation']


def test_a_probe_has_nothing_to_prepare(text, capsys):
    for more in ([], ['--train_bpe=x.json']):
        assert main(['prepare', *base(text), SOURCE, *more]) == 2
        assert 'has no documents' in capsys.readouterr().err


def test_the_card_takes_a_probe_and_refuses_others(capsys):
    card = str(ROOT / 'experiments' / 'probes.py')
    assert config_lib.load(f'{card}:sorting').data.source.startswith('sorting')
    with pytest.raises(UserError, match="Did you mean 'sorting'"):
        config_lib.load(f'{card}:sortin')
