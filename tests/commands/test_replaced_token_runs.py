"""A discriminator learns from the replacements of another run through the commands."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from tests.commands.conftest import base
from tests.commands.test_companion_runs import flags, named, records, refused, saved
from tests.small import assert_trees_close

STEPS = 4
GENERATOR = {'task': 'masked_lm', 'model.mask': 'full', 'model.head': 'mlm'}
DETECTOR = {
    'task': 'replaced_tokens',
    'model.mask': 'full',
    'model.head': 'detector',
    'model.dropout': 0.1,
    'init_from.restore': "(('head/.*', False), ('.*', True))",
    'num_steps': STEPS,
    'log_every': 1,
    'checkpoint.every': 2,
    'checkpoint.keep': 9,
}


@pytest.fixture(scope='module')
def generator(text, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / 'generator'
    assert main(['train', *base(text), *flags(GENERATOR), f'--workdir={run}']) == 0
    return run


@pytest.fixture(scope='module')
def detector(text, generator, tmp_path_factory) -> tuple[list[str], pathlib.Path]:
    """The arguments of a run that begins with the generator's weights, and its directory."""
    changes = DETECTOR | named('generator', generator) | {'init_from.path': generator}
    argv = ['train', *base(text), *flags(changes)]
    run = tmp_path_factory.mktemp('runs') / 'detector'
    assert main([*argv, f'--workdir={run}']) == 0
    return argv, run


def test_it_starts_at_chance_from_the_generators_weights(detector, generator):
    _, run = detector
    first, *_ = (r for r in records(run) if r['split'] == 'train')
    assert first['loss'] == pytest.approx(np.log(2), rel=1e-6)  # the head starts at zero
    assert 0 < first['replaced'] <= 2 / 16  # 0.15 of 16 tokens are chosen, rounded
    provenance = json.loads((run / 'run.json').read_text())
    assert provenance['companions'] == {'generator': f'{generator}/checkpoints/2'}
    setup = build(resolve(config_lib.read_json(run / 'config.json')))
    with setup.sharding.active():
        state = setup.initial_state()
    ours = {k: v for k, v in state.params.items() if k != 'head'}
    theirs = {k: v for k, v in state.companions['generator'].items() if k != 'head'}
    assert_trees_close(ours, theirs, rtol=0, atol=0)


def test_stopped_and_resumed_it_is_bitwise_the_same(detector, tmp_path, capsys):
    """With the same replacements."""
    argv, run = detector
    copy = tmp_path / 'copy'
    shutil.copytree(run, copy)
    (copy / 'result.json').unlink()
    shutil.rmtree(copy / 'checkpoints' / str(STEPS))
    assert main([*argv, f'--workdir={copy}']) == 0
    assert 'resumed after step 2' in capsys.readouterr().out
    assert saved(copy, STEPS) == saved(run, STEPS)
    assert records(copy) == records(run)


def test_evaluate_repeats_the_last_evaluation(detector, capsys):
    _, run = detector
    want = json.loads((run / 'result.json').read_text())['metrics']['validation']
    capsys.readouterr()
    assert main(['evaluate', f'--workdir={run}', '--batches=1']) == 0
    values = json.loads(capsys.readouterr().out)
    for key in ('loss', 'accuracy', 'replaced', 'found'):
        assert values[key] == want[key]
    assert 'bits_per_byte' not in values


def test_a_detector_generates_no_text(detector, capsys):
    _, run = detector
    assert 'only lm generates text' in refused(['generate', f'--workdir={run}'], capsys)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({}, "the generator 'DECODER' has learned 'causal_lm'; name a run of masked_lm"),
        ({'companions': '()'}, "set companions=('generator: RUN',)"),
        ({'companions': "('generator: DETECTOR',)"}, "has learned 'replaced_tokens'; name a"),
        ({'companions': "('generator: MASKED',)", 'model.head': 'mlm'}, "model.head='detector'"),
        ({'companions': "('generator: MASKED',)", 'model.mask': 'causal'}, "use 'full'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(
    changes, words, text, generator, detector, tmp_path, capsys
):
    decoder = tmp_path / 'decoder'
    shutil.copytree(generator, decoder)
    config = config_lib.read_json(decoder / 'config.json')
    config.task = 'causal_lm'
    (decoder / 'config.json').write_text(config_lib.to_json(config))
    runs = {'DECODER': decoder, 'DETECTOR': detector[1], 'MASKED': generator}
    changes = DETECTOR | {'companions': "('generator: DECODER',)"} | changes
    argv = ['train', *base(text), *flags(changes)]
    for name, run in runs.items():
        argv = [arg.replace(name, str(run)) for arg in argv]
        words = words.replace(name, str(run))
    assert words in refused(argv, capsys)
