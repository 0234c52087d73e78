"""Every run card keeps its resolved config, and trains two steps when shrunk."""

import json
import pathlib

import jax
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.training.setup import resolve
from tests.runs.conftest import ROOT

jax.devices()  # all eight, before a command chooses fewer

CARDS = sorted(
    p for p in (ROOT / 'experiments').rglob('*.py') if p.stem not in ('__init__', 'defaults')
)
GOLDEN = ROOT / 'tests' / 'golden' / 'configs'


def ids(card: pathlib.Path) -> str:
    return card.stem


@pytest.mark.parametrize('card', CARDS, ids=ids)
def test_the_resolved_config_is_the_golden_one(card, request):
    """A refactor that changes a run shows as a diff; `--golden` of this test writes it anew."""
    text = config_lib.to_json(resolve(config_lib.load(str(card))))
    golden = GOLDEN / f'{card.stem}.json'
    if request.config.getoption('--golden'):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.exists(), 'a new run card: run this test once with --golden'
    assert config_lib.diff(json.loads(golden.read_text()), json.loads(text)) == []


@pytest.mark.parametrize('card', CARDS, ids=ids)
def test_the_card_says_what_it_asks_and_how_to_run_it(card):
    head = card.read_text().partition('"""')[2].partition('"""')[0]
    assert 'python launch.py' in head


@pytest.mark.parametrize('card', CARDS, ids=ids)
def test_shrunk_it_trains_two_steps(card, small_args, text_file, tmp_path, capsys):
    config = config_lib.load(str(card))
    images = resolve(config).model.inputs.startswith('patches')
    labelled = not images and config.task.startswith('classification')
    changes = ['--config.num_steps=2', '--config.baselines=()', '--config.init_from.path=']
    if labelled:
        data = tmp_path / 'labelled.jsonl'
        words = text_file.read_text().split()
        rows = [{'text': ' '.join(words[i : i + 9]), 'label': i % 2} for i in range(400)]
        data.write_text(''.join(json.dumps(r) + '\n' for r in rows))
        changes += [
            '--config.data.source=jsonl',
            '--config.data.format=text(label="label")',
            f'--config.data.path={data}',
        ]
    if config.task == 'instruction':
        data, words = tmp_path / 'prompts.jsonl', text_file.read_text().split()
        rows = [{'prompt': words[i], 'response': words[i + 1]} for i in range(400)]
        data.write_text(''.join(json.dumps(r) + '\n' for r in rows))
        changes += ['--config.data.source=jsonl', f'--config.data.path={data}']
    if images:
        inputs = 'patches(size=2, channels=1, class_token=True)'
        changes += ['--config.data.source=digits', '--config.data.seq_len=17']
        changes += [f'--config.model.inputs={inputs}', '--config.task=classification(flip=True)']
    if config.accumulate > 1:
        changes += ['--config.accumulate=2', '--config.data.batch_size=16']
    changes += [f'--config.model.vocab_size={384 if config.model.vocab_size else 0}']
    if resolve(config).model.encoder_depth:
        changes += ['--config.model.encoder_depth=2']
    argv = ['train', f'--config={card}', *small_args, *changes, f'--workdir={tmp_path / "run"}']
    assert main(argv) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / 'run' / 'result.json').read_text())['steps'] == 2
