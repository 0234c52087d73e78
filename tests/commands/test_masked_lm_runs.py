"""A masked LM trains, is evaluated and fine-tuned through the commands; it generates no text."""

import json
import pathlib

import jax
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.training.outline import resolve
from bigmodel.training.restore import check_vocabulary, restored_params
from bigmodel.training.setup import build
from bigmodel.training.state import abstract_params
from tests.commands.conftest import base
from tests.small import small_config, small_model

MASKED = ['task=masked_lm', 'model.mask=full', 'model.head=mlm', 'model.vocab_size=259']
TUNED = [
    'task=classification',
    'model.mask=full',
    'model.head=classifier',
    'data.packing=windows',
    'data.source=jsonl',
    'data.format=text(label="label")',
    "init_from.restore=(('head/.*', False), ('.*', True))",
]


def flags(changes: list[str]) -> list[str]:
    return [f'--config.{change}' for change in changes]


@pytest.fixture(scope='module')
def masked_run(text, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / 'masked'
    assert main(['train', *base(text), *flags(MASKED), f'--workdir={run}']) == 0
    return run


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    return capsys.readouterr().err


def test_evaluate_repeats_the_last_evaluation_of_the_run(masked_run, capsys):
    """With the same masks; bits a byte are not defined where some tokens are predicted."""
    assert main(['evaluate', f'--workdir={masked_run}', '--batches=1']) == 0
    values = json.loads(capsys.readouterr().out)
    result = json.loads((masked_run / 'result.json').read_text())['metrics']['validation']
    assert values['loss'] == result['loss'] and values['accuracy'] == result['accuracy']
    assert 'bits_per_byte' not in values


def test_a_run_goes_on_where_nothing_is_to_be_predicted_and_says_so_once(tmp_path, capsys):
    """All of the text is one word, which is longer than what is to be chosen of a row."""
    text, run = tmp_path / 'text.txt', tmp_path / 'run'
    text.write_text('abcdefghij' * 2000)
    changes = [*MASKED[1:], 'task=masked_lm(whole_words=True)', 'log_every=1', 'num_steps=3']
    changes.append("evals.validation.scores=('perplexity',)")
    argv = ['train', *base(text), *flags(changes)]
    assert main([*argv, f'--workdir={run}']) == 0
    out = capsys.readouterr().out
    assert out.count('has nothing to predict') == 1 and 'validation: loss nan' in out
    records = list(map(json.loads, (run / 'metrics.jsonl').read_text().splitlines()))
    assert [r['step'] for r in records] == [1, 2, 3, 3]
    assert all(np.isnan(r['loss']) and 'accuracy' not in r for r in records)
    assert (
        json.loads((run / 'result.json').read_text())['steps'] == 3 and (run / 'loss.png').exists()
    )


def test_show_and_bench_work(text, capsys):
    unset = flags(MASKED[:-1])
    assert main(['show', *base(text), *unset]) == 0
    out = capsys.readouterr().out
    assert 'head/transform/weight' in out and 'vocab=320' in out
    assert main(['bench', *base(text), *unset, '--steps=2']) == 0
    assert json.loads(capsys.readouterr().out)['tokens_per_second'] > 0


def test_what_needs_the_next_token_is_refused(text, masked_run, tmp_path, capsys):
    run = f'--workdir={masked_run}'
    assert 'only lm generates text' in refused(['generate', run, '--prompt=a'], capsys)
    assert 'only causal_lm has a loss by position' in refused(
        ['extrapolate', str(masked_run)], capsys
    )
    argv = ['train', *base(text), *flags([*MASKED, 'sample=the']), f'--workdir={tmp_path / "x"}']
    assert "sample='the': the model has the head 'mlm'" in refused(argv, capsys)
    argv[-2] = '--config.model.head=lm'
    assert main([*argv[:-1], '--config.sample=the', argv[-1]]) == 2
    assert "has the mask 'full'; only causal models" in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_a_mask_that_shows_one_side_is_refused_unless_a_layer_sees_both(text, capsys):
    argv = ['show', *base(text), *flags(MASKED)]
    line = refused([*argv, '--config.model.mask=window(4)'], capsys)
    assert "from both sides, of which model.mask='window(4)' shows one; use 'full'" in line
    assert main([*argv, "--config.model.pattern=('causal', 'full')"]) == 0


def test_the_head_that_fits_is_named(text, tmp_path, capsys):
    rows = [{'text': f'row {i}', 'label': str(i % 2)} for i in range(200)]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    data = [f'data.path={tmp_path / "rows.jsonl"}', 'data.source=jsonl']
    data.append('data.format=text(label="label")')
    changes = [*MASKED, *data, 'model.head=classifier']
    line = refused(['show', *base(text), *flags(changes)], capsys)
    assert "task='masked_lm' needs model.head='lm' or 'mlm', not 'classifier'" in line


def test_fine_tuning_restores_all_but_the_head_and_asks_for_the_same_vocabulary(
    text, masked_run, tmp_path, capsys
):
    """The masked LM has an id more: without a size, this run would have another vocabulary."""
    data = tmp_path / 'labelled.jsonl'
    rows = [{'text': f'row {i} of the lazy dog', 'label': str(i % 2)} for i in range(200)]
    data.write_text('\n'.join(map(json.dumps, rows)))
    more = [*TUNED, f'data.path={data}', f'init_from.path={masked_run}']
    argv = ['train', *base(text), *flags(more), f'--workdir={tmp_path / "run"}']
    line = refused(argv, capsys)
    assert 'inputs/tokens/table has 259 ids' in line and 'set model.vocab_size=259' in line
    assert main([*argv, '--config.model.vocab_size=259']) == 0
    setup = build(resolve(config_lib.read_json(tmp_path / 'run' / 'config.json')))
    theirs = {k: setup.abstract.params[k] for k in ('inputs', 'backbone')}
    want, _ = restored_params(str(masked_run), 0, theirs)
    with setup.sharding.active():
        params = setup.initial_state().params
    jax.tree.map(np.testing.assert_array_equal, {k: params[k] for k in want}, want)
    assert not params['head']['out']['weight'].any()


@pytest.mark.parametrize(
    ('theirs', 'num_ids', 'fix'),
    [
        (128, 32, 'set model.vocab_size=128'),
        (64, 65, 'train that run with model.vocab_size=32, or leave it out'),
    ],
)
def test_the_fix_for_another_vocabulary_is_one_that_can_be(theirs, num_ids, fix):
    boxed = abstract_params(small_model(head='lm(tied=False)'))
    source = small_config().init_from
    check_vocabulary({'inputs/tokens/table': (32, 16)}, boxed, source, num_ids)
    found = {'inputs/tokens/table': (theirs, 16)}
    with pytest.raises(UserError, match=fix):
        check_vocabulary(found, boxed, source, num_ids)
    source.restore = (('inputs/.*', False), ('.*', True))
    check_vocabulary(found, boxed, source, num_ids)
