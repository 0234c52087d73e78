"""Every run card keeps its resolved config, and trains two steps when shrunk."""

import functools
import json
import pathlib
from collections.abc import Callable

import jax
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.tasks.build import build_task
from bigmodel.training.outline import resolve
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


# What a format teaches -> the format, and an example of two words and a number.
EXAMPLES = {
    'class': ('text(label="label")', lambda a, b, i: {'text': a, 'label': i % 2}),
    'number': ('score', lambda a, b, i: {'text': a, 'score': i % 2}),
    'classes': ('tags', lambda a, b, i: {'tokens': [a, b], 'tags': [0, 1]}),
    'span': ('span("q", "c", "a", "s")', lambda a, b, i: {'q': a, 'c': b, 'a': [b], 's': [0]}),
    'choice': (
        'choices("o", "q")',
        lambda a, b, i: {'q': a, 'o': [a, b, 'c', 'd'], 'label': i % 4},
    ),
    'responses': ('prompt', lambda a, b, i: {'prompt': a, 'response': b}),
    'preference': ('preference', lambda a, b, i: {'prompt': a, 'chosen': b, 'rejected': a}),
}


def examples_of(learns: str, folder: pathlib.Path, text_file: pathlib.Path) -> list[str]:
    """Overrides with 400 examples for what a task learns."""
    (format, example), words = EXAMPLES[learns], text_file.read_text().split()
    rows = [example(words[i], words[i + 1], i) for i in range(400)]
    data = folder / 'examples.jsonl'
    data.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    changes = {'source': 'jsonl(test=0.1)', 'path': data, 'format': format}
    return [f'--config.data.{key}={value}' for key, value in changes.items()]


# What a companion is -> a card that trains one.
COMPANIONS = {'decoder': 'quickstart.py', 'masked_lm': 'pretrain/masked_lm.py'}


@pytest.fixture(scope='session')
def companion(small_args, tmp_path_factory) -> Callable[[str], pathlib.Path]:
    """Trains a shrunk card of this kind when it is first asked for; returns its directory."""

    @functools.cache
    def train(kind: str) -> pathlib.Path:
        run = tmp_path_factory.mktemp('companion') / 'run'
        card = ROOT / 'experiments' / COMPANIONS[kind]
        argv = [f'--config={card}', *small_args, '--config.num_steps=1', f'--workdir={run}']
        assert main(['train', *argv]) == 0
        return run

    return train


@pytest.mark.parametrize('card', CARDS, ids=ids)
def test_shrunk_it_trains_two_steps(card, small_args, text_file, companion, tmp_path, capsys):
    config = config_lib.load(str(card))
    images = resolve(config).model.inputs.startswith('patches')
    task = build_task(config.task)
    changes = ['--config.num_steps=2', '--config.init_from.path=']
    if 'validation' in config.evals:
        changes += ['--config.evals.validation.data=']
    if task.learns and not images:
        changes += examples_of(task.learns, tmp_path, text_file)
    if task.companions:
        run = companion(task.companions_are)
        changes += [f'--config.companions={tuple(f"{n}: {run}" for n in task.companions)}']
    if images:
        changes += ['--config.data.source=digits', '--config.data.seq_len=17']
    if images and config.data.source != 'digits':
        inputs = 'patches(size=2, channels=1, class_token=True)'
        changes += [f'--config.model.inputs={inputs}', '--config.task=classification(flip=True)']
    if config.accumulate > 1:
        changes += ['--config.accumulate=2', '--config.data.batch_size=16']
    changes += [f'--config.model.vocab_size={384 if config.model.vocab_size else 0}']
    if resolve(config).model.encoder_depth:
        changes += ['--config.model.encoder_depth=2']
    argv = ['train', f'--config={card}', *small_args, *changes, f'--workdir={tmp_path / "run"}']
    assert main(argv) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / 'run' / 'result.json').read_text())['steps'] == 2
