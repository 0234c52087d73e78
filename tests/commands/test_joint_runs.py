"""Semi-supervised runs: few rows with a label among many without, in one step of two tasks."""

import json

import pytest

from bigmodel.commands.main import main
from tests.commands.conftest import base


@pytest.fixture(scope='module')
def arguments(text, finished_run, tmp_path_factory):
    labelled = tmp_path_factory.mktemp('labelled') / 'rows.jsonl'
    lines = [{'text': f'the {kind} fox jumps over', 'kind': kind} for kind in ('quick', 'lazy')]
    labelled.write_text('\n'.join(map(json.dumps, 20 * lines)))
    format = 'format=text(label="kind",classes=("quick","lazy"))'
    parts = f"named: 1 source=jsonl(validation=0.2) path={labelled} '{format}'", 'plain: 3'
    changes = {
        'task': 'joint(weight=0.5)',
        'model.head': 'joint',
        'data.mixture': parts,
        'data.packing': 'windows',
        'init_from.path': finished_run,
        'init_from.restore': (('head/.*', False), ('.*', True)),
        'optimizer.train': (('head/.*', True), ('.*', False)),
        'evals.validation.batches': 0,
        'log_every': 1,
    }
    return [*base(text), *(f'--config.{k}={v}' for k, v in changes.items())]


@pytest.fixture(scope='module')
def run(arguments, tmp_path_factory):
    run = tmp_path_factory.mktemp('runs') / 'joint'
    assert main(['train', *arguments, f'--workdir={run}']) == 0
    return run


def test_each_source_has_the_metrics_that_it_has_rows_for(run):
    records = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    for record in records:
        assert 'classification_nll/plain' not in record
        assert record['classification_nll/named'] == record['classification_nll']
        text = record['causal_lm_nll/plain']
        assert record['loss/plain'] == pytest.approx(0.5 * text, rel=0.1)  # rows may be shorter
        assert record['loss/named'] > record['classification_nll']
    (validation,) = (r for r in records if r['split'] == 'validation')
    assert validation['bits_per_byte/plain'] > 0


def test_the_second_head_starts_from_what_a_causal_lm_learned(run, finished_run, capsys):
    """The tied table and the backbone are restored, and here only heads are trained."""
    assert main(['evaluate', f'--workdir={finished_run}', '--config.data.packing=windows']) == 0
    want = json.loads(capsys.readouterr().out)
    last = (run / 'metrics.jsonl').read_text().splitlines()[-1]
    assert json.loads(last)['causal_lm_nll/plain'] == pytest.approx(want['nll'], rel=1e-5)


def test_what_there_is_no_label_for_is_left_out_of_metrics(arguments, text, tmp_path):
    """The two steps have no row with a label, which are rare, and the evaluation is of none."""
    rare = [a.replace('named: 1 ', 'named: 0.001 ') for a in arguments if 'named: 1 ' in a]
    rare.append(f'--config.evals.validation.data=source=text path={text}')
    run = tmp_path / 'run'
    assert main(['train', *arguments, *rare, f'--workdir={run}']) == 0
    records = list(map(json.loads, (run / 'metrics.jsonl').read_text().splitlines()))
    assert [r['split'] for r in records] == ['train', 'train', 'validation']
    assert records[-1]['bits_per_byte'] > 0
    for record in records:
        assert record['causal_lm_nll'] > 0 and record['loss'] > 0
        assert not any(key.startswith('classification') for key in record)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            ['--config.model.head=classifier'],
            ["needs model.head=joint(first='classifier', second='lm' or 'mlm'), not"],
        ),
        (['--config.task=causal_lm'], ["needs model.head='lm' or 'mlm', not 'joint'"]),
        (['--config.model.head=joint(first="classifier(pool=\'first\')")'], ['reads the first']),
        (['--config.model.head=joint(first="clasifier")'], ["Did you mean 'classifier'"]),
        (['--config.model.head=joint(tied=False)'], ["no argument 'tied'", "second='lm'"]),
        (['--config.model.mask=full'], ['predicts tokens that']),
        (["--config.data.mixture=('plain: 1',)"], ['needs labels']),
    ],
)
def test_a_mistake_is_one_line(changes, words, arguments, tmp_path, capsys):
    assert main(['train', *arguments, *changes, f'--workdir={tmp_path / "run"}']) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and all(word in line for word in words), line
