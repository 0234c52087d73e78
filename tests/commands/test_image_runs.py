"""A ViT trains, resumes and is evaluated through the commands; what does not fit is refused."""

import json
import pathlib

import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel import params as params_lib
from bigmodel.commands.main import main
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from tests.commands.conftest import ROOT, base
from tests.commands.test_bad_input import refused

CARD = str(ROOT / 'experiments' / 'vit_digits.py')
SMALL = {
    'model.depth': 2,
    'model.width': 16,
    'model.num_heads': 2,
    'data.batch_size': 8,
    'model.unroll': 1,
    'sharding.mesh': 'data=2',  # less to compile
    'num_steps': 4,
    'log_every': 1,
    'checkpoint.every': 1,
    'checkpoint.keep': 4,
    'evals.validation.batches': 2,
    'evals.test.batches': 1,
}
ARGS = ['train', f'--config={CARD}', *(f'--config.{k}={v}' for k, v in SMALL.items())]


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> pathlib.Path:
    where = tmp_path_factory.mktemp('runs') / 'vit'
    assert main([*ARGS, f'--workdir={where}']) == 0
    return where


def losses(run: pathlib.Path) -> list[float]:
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [r['loss'] for r in map(json.loads, lines) if r['split'] == 'train']


def test_a_run_on_images_keeps_the_contract_and_is_evaluated_again(run, capsys):
    values = json.loads((run / 'result.json').read_text())['metrics']['validation']
    assert 0 <= values['accuracy'] <= 1 and 'bits_per_byte' not in values
    assert json.loads((run / 'run.json').read_text())['tokens_per_step'] == 8 * 17
    assert main(['evaluate', f'--workdir={run}', '--batches=2']) == 0
    again = json.loads(capsys.readouterr().out)
    assert 'gzip_bits_per_byte' not in again  # there is no text to compress
    assert {k: again[k] for k in ('loss', 'accuracy')} == {
        k: values[k] for k in ('loss', 'accuracy')
    }


def test_a_run_on_images_goes_on_as_if_it_had_not_stopped(run, tmp_path):
    parts = tmp_path / 'parts'
    assert main([*ARGS, f'--workdir={parts}']) == 0
    # As a kill after step 2 leaves it.
    (parts / 'result.json').unlink()
    for step in (3, 4):
        for file in sorted((parts / 'checkpoints' / str(step)).rglob('*'), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (parts / 'checkpoints' / str(step)).rmdir()
    assert main([*ARGS, f'--workdir={parts}']) == 0
    np.testing.assert_array_equal(losses(parts), losses(run))


def test_a_run_on_images_is_where_another_can_start(run, tmp_path):
    changes = [f'--config.init_from.path={run}', '--config.num_steps=1']
    changes += ["--config.init_from.restore=(('head/.*', False), ('.*', True))"]
    assert main([*ARGS, *changes, f'--workdir={tmp_path / "next"}']) == 0


PAINT, PAINTED = (
    ROOT / 'experiments' / name
    for name in ('pretrain/masked_images.py', 'finetune/masked_images_digits.py')
)


def test_a_classifier_starts_from_a_run_without_labels(tmp_path):
    small = {k: v for k, v in SMALL.items() if not k.startswith('evals.test')} | {'num_steps': 1}
    args = [f'--config.{k}={v}' for k, v in small.items()]
    before = tmp_path / 'before'
    assert main(['train', f'--config={PAINT}', *args, f'--workdir={before}']) == 0
    config = config_lib.load(str(PAINTED))
    for key, value in (small | {'init_from.path': before}).items():
        config_lib.override(config, key, str(value))
    setup = build(resolve(config))
    params = params_lib.flatten(setup.initial_state().params)
    checkpoints = Checkpoints(before / 'checkpoints')
    shapes = checkpoints.param_shapes(1)
    checkpoints.close()
    assert set(shapes) - set(params) == {'inputs/mask_token'}
    assert shapes['head/out/weight'] == (16, 4)  # the pixels of a patch
    assert params['head/out/weight'].shape == (16, 10) and not params['head/out/weight'].any()
    fresh = params_lib.flatten(build(resolve(without_start(config))).initial_state().params)
    same = {path for path in params if np.array_equal(params[path], fresh[path])}
    assert same == {'head/out/weight', 'head/out/bias'}


def without_start(config):
    config.init_from.path = ''
    return config


def test_a_run_on_images_does_not_start_from_one_on_text(finished_run, capsys, tmp_path):
    argv = [*ARGS, f'--config.init_from.path={finished_run}', f'--workdir={tmp_path / "run"}']
    line = refused(argv, capsys)
    assert "was trained on tokens, but data.source='digits' gives images" in line


def test_commands_of_text_refuse_images(run, capsys, tmp_path):
    assert 'only lm generates text' in refused(['generate', f'--workdir={run}'], capsys)
    picture = f'--picture={tmp_path / "x.png"}'
    assert 'only causal_lm' in refused(['extrapolate', str(run), picture], capsys)
    for more in ([], ['--train_bpe=x.json']):
        assert 'has no documents' in refused(['prepare', f'--config={CARD}', *more], capsys)


# changes of the card -> words of the one line
MISTAKES = {
    'tokens': (['model.inputs=tokens'], ["model.inputs='tokens' reads tokens", 'to patches']),
    'task': (['task=causal_lm'], ["task='causal_lm' reads tokens", 'gives images']),
    'length': (['data.seq_len=16'], ['data.seq_len=16', 'set data.seq_len=17']),
    'patch': (
        ['model.inputs=patches(size=3, channels=1)'],
        ['patches(size=3) does not divide images of 8×8 pixels'],
    ),
    'channels': (['model.inputs=patches(size=2)'], ['images have 1; set channels=1']),
    'zero size': (['model.inputs=patches(size=0)'], ['must be positive, got 0']),
    'argument': (['model.inputs=patches(sise=2)'], ["Did you mean 'size'"]),
    'part': (['model.inputs=patch'], ["Did you mean 'patches'"]),
    'columns': (['model.position=learned_2d'], ['counts 14 columns', 'set columns=4']),
    'columns of a layer': (
        ['model.pattern=(\'layer(position="rope_2d(columns=8)")\',)'],
        ['counts 8 columns', 'set columns=4'],
    ),
    'head': (['model.head=lm(tied=False)'], ["needs model.head='classifier'"]),
    'tied head': (['model.head=lm(tied=True)'], ['needs a table of tokens', 'classifier']),
    'shares': (['data.source=digits(validation=0.5, test=0.5)'], ['sum below 1']),
    'split': (['evals.validation.split=dev'], ["unknown split of data.source 'dev'"]),
    'shift': (['task=classification(shift=-1)'], ['at least 0, got -1']),
    'first token of a causal model': (
        ['model.mask=causal', 'model.head=classifier("first")'],
        ['reads the first token', "model.mask='causal' shows no other", "use the mask 'full'"],
    ),
    'wide shift': (['task=classification(shift=8)'], ['shift=8', '8×8', 'set shift below 8']),
    'sample': (['sample=x'], ["sample='x'", 'only lm generates text', "set sample to ''"]),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_run_behind(name, capsys, tmp_path):
    changes, words = MISTAKES[name]
    argv = [*ARGS, *(f'--config.{c}' for c in changes), f'--workdir={tmp_path / "run"}']
    line = refused(argv, capsys)
    for word in words:
        assert word in line, line
    assert not (tmp_path / 'run').exists()


PATCHES = '--config.model.inputs=patches(size=2, channels=1)'


@pytest.mark.parametrize('source', ['text', 'mqar(pairs=2, held_out=16)'])
def test_patches_are_refused_where_there_is_text(source, text, capsys, tmp_path):
    argv = ['train', *base(text), f'--config.data.source={source}', PATCHES]
    line = refused([*argv, f'--workdir={tmp_path / "run"}'], capsys)
    assert 'reads images' in line and 'gives tokens; set model.inputs to tokens' in line


def test_text_is_not_shifted(text, capsys, tmp_path):
    data = tmp_path / 'labelled.jsonl'
    data.write_text(
        ''.join(json.dumps({'text': f'{i} x', 'label': i % 2}) + '\n' for i in range(99))
    )
    changes = {
        'data.source': 'jsonl',
        'data.format': 'text(label="label")',
        'data.path': data,
        'data.packing': 'windows',
        'task': 'classification(shift=1)',
        'model.head': 'classifier',
    }
    argv = ['train', *base(text), *(f'--config.{k}={v}' for k, v in changes.items())]
    line = refused([*argv, f'--workdir={tmp_path / "run"}'], capsys)
    assert "task='classification(shift=1)' reads images" in line and 'gives tokens' in line
