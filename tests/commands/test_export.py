"""An exported run says what the run says, and is read like any other."""

import json
import pathlib

import pytest

from bigmodel.commands.main import main
from bigmodel.training.checkpoints import Checkpoints
from tests.commands.test_only_trained_runs import arguments

TRAINED = "(('(adapter|backbone/final_norm)/.*', True), ('.*', False))"
RUNS = {
    'lora': {'model.adapter': 'lora(rank=2)', 'optimizer.train': TRAINED},
    'qlora': {'model.adapter': 'qlora(rank=2, block=16)', 'optimizer.train': TRAINED},
    'qlora, all saved': {
        'model.adapter': 'qlora(rank=2, block=16, bits=8)',
        'optimizer.train': TRAINED,
        'checkpoint.only_trained': False,
    },
    'dora, averaged': {
        'model.adapter': 'dora(rank=2)',
        'optimizer.train': TRAINED,
        'optimizer.ema': 0.5,
    },
    'no adapter, averaged': {'optimizer.ema': 0.5, 'optimizer.last_layers': 1},
}


@pytest.fixture(scope='module', params=RUNS)
def exported(request, text, finished_run, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    folder = tmp_path_factory.mktemp('export')
    run, output = folder / 'run', folder / 'output'
    argv = arguments(text, finished_run, True, **RUNS[request.param])
    # A rate that moves the adapter away from where it starts.
    assert main([*argv, '--config.optimizer.learning_rate=0.1', f'--workdir={run}']) == 0
    assert main(['export', f'--workdir={run}', f'--output={output}']) == 0
    return run, output


def said(command: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(command) == 0
    return capsys.readouterr().out


def test_it_evaluates_and_generates_as_the_run_does(exported, capsys):
    losses, texts = [], []
    for run in exported:
        out = said(['evaluate', f'--workdir={run}', '--batches=1'], capsys)
        losses.append(json.loads(out)['loss'])
        argv = ['generate', f'--workdir={run}', '--prompt=the ', '--temperature=0']
        texts.append(said([*argv, '--max_tokens=8'], capsys))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert texts[0] == texts[1]


def test_it_is_a_plain_model_that_runs_start_from(exported, text, tmp_path):
    run, output = exported
    config = json.loads((output / 'config.json').read_text())
    assert config['model']['adapter'] == 'none' and config['init_from']['path'] == ''
    found = Checkpoints(output / 'checkpoints').shapes(4)
    assert {path.split('/')[0] for path in found} == {'step', 'params'}
    assert not any('adapter' in path for path in found)
    leaves = Checkpoints(output / 'checkpoints').param_leaves(4)
    assert {str(leaf.dtype) for leaf in leaves.values()} == {'float32'}
    assert not any(path.endswith('/codes') for path in leaves)
    record = json.loads((output / 'run.json').read_text())
    assert record['exported_from'] == f'{run}/checkpoints/4'
    argv = arguments(text, output, False, num_steps=1)
    assert main([*argv, f'--workdir={tmp_path / "next"}']) == 0


def test_what_cannot_be_is_refused(exported, tmp_path, capsys):
    run, output = exported
    for argv, message in (
        ([f'--output={output}'], f'--output={output} is there already'),
        ([], '--output=DIR is needed'),
        ([f'--output={tmp_path / "new"}', '--step=3'], '--step=3: there is no such checkpoint'),
    ):
        assert main(['export', f'--workdir={run}', *argv]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()
