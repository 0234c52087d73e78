"""Predictions of a run in a file, and pseudo-labels that another run trains on."""

import json
import pathlib
import re
import shlex

import pytest

from bigmodel import config as config_lib
from bigmodel.commands.main import main
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from tests.commands.conftest import base

WORDS = {'up': 'aaaa aaaa', 'down': 'bbbb bbbb', 'aside': 'cccc cccc'}


def write(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def examples(count: int) -> list[dict]:
    names = list(WORDS)
    return [
        {'id': i, 'text': WORDS[names[i % 3]][: 4 + i % 5], 'label': names[i % 3]}
        for i in range(count)
    ]


@pytest.fixture(scope='module')
def teacher(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('teacher')
    data = write(folder / 'train.jsonl', examples(60))
    write(folder / 'validation.jsonl', examples(11))
    run = folder / 'run'
    changes = {
        'data.source': 'jsonl',
        'data.path': data.with_name('{split}.jsonl'),
        'data.format': 'text(label="label")',
        'data.packing': 'pad',
        'task': 'classification',
        'model.head': 'classifier(pool="mean")',
        'model.mask': 'full',
        'num_steps': 30,
        'evals.validation.batches': 0,
        'evals.validation.every': 30,
        'optimizer.learning_rate': 0.03,
        'schedule': 'constant',
    }
    args = [*base(data), *(f'--config.{k}={v}' for k, v in changes.items())]
    assert main(['train', *args, f'--workdir={run}']) == 0
    return run


def test_predictions_are_a_line_an_example_in_order(teacher, tmp_path, capsys) -> None:
    out = tmp_path / 'predictions.jsonl'
    assert main(['evaluate', f'--workdir={teacher}', f'--predictions={out}']) == 0
    values = json.loads(capsys.readouterr().out)
    lines = read(out)
    assert [line['index'] for line in lines] == list(range(11))
    assert [line['target'] for line in lines] == [row['label'] for row in examples(11)]
    assert lines[3]['place'] == f'{teacher.parent}/validation.jsonl:4'
    assert all(0 < line['confidence'] <= 1 for line in lines)
    right = sum(line['prediction'] == line['target'] for line in lines) / 11
    assert values['accuracy'] == pytest.approx(right) and right > 0.9


def test_a_student_trains_on_what_its_teacher_is_sure_of(teacher, tmp_path, capsys) -> None:
    """Of unlabelled text, of which the teacher finds two of its three classes."""
    rows = [row for row in examples(60) if row['label'] != 'aside']
    plain = write(tmp_path / 'plain.jsonl', [{k: r[k] for k in ('id', 'text')} for r in rows])
    out = tmp_path / 'labels.jsonl'
    command = [
        'label',
        f'--workdir={teacher}',
        f'--output={out}',
        f'--config.data.path={plain}',
        '--config.data.source=jsonl(validation=0.0)',
        '--config.data.format=text',
    ]
    assert main([*command, '--threshold=0.0']) == 0
    everything = read(out)
    assert [{k: line[k] for k in ('id', 'text')} for line in everything] == read(plain)
    threshold = sorted(line['confidence'] for line in everything)[10]
    capsys.readouterr()
    assert main([*command, f'--threshold={threshold}']) == 0
    said = capsys.readouterr().out
    sure = read(out)
    assert sure == [line for line in everything if line['confidence'] >= threshold]
    assert 10 < len(sure) <= len(everything) - 8  # texts recur
    want = {row['id']: row['label'] for row in rows}
    assert sum(line['label'] == want[line['id']] for line in sure) > 0.9 * len(sure)

    # What it said is a config whose classes have the teacher's numbers.
    theirs = config_lib.read_json(teacher / 'config.json')
    format = shlex.split(said)[-1].removeprefix('--config.data.format=')
    theirs.data.update(source='jsonl', path=str(out), format=format)
    student = build(resolve(theirs))
    assert student.label_names == ('aside', 'down', 'up')
    batch = student.data.batches(0)
    letters = {ord('b'): 1, ord('a'): 2}
    got = [letters[int(t[t < 256][0])] for t in batch['tokens']]
    agree = sum(g == n for g, n in zip(got, batch['label'].tolist(), strict=True))
    assert set(batch['label'].tolist()) == {1, 2} and agree >= len(got) - 1


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        (['--threshold=2'], 'threshold=2.0 must be in [0, 1]'),
        (['--config.data.packing=first_fit'], "set data.packing='pad(truncate=True)'"),
        (['--eval=dev'], "unknown entry of evals 'dev'"),
    ],
)
def test_what_cannot_be_labelled_is_refused(changes, word, teacher, tmp_path, capsys) -> None:
    argv = ['label', f'--workdir={teacher}', f'--output={tmp_path}/x.jsonl', '--split=validation']
    assert main([*argv, *changes]) == 2
    err = capsys.readouterr().err
    assert word in err and err.count('\n') == 1


@pytest.mark.parametrize(
    ('command', 'option'), [('label', '--output'), ('evaluate', '--predictions')]
)
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_computed(
    command, option, teacher, tmp_path, capsys, monkeypatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError('a checkpoint was restored')

    monkeypatch.setattr('bigmodel.training.restore.restored_params', never)
    taken = write(tmp_path / 'taken', [{}])
    for path, why in [(tmp_path, 'Is a directory'), (taken / 'x.jsonl', 'exists|Not a directory')]:
        assert main([command, f'--workdir={teacher}', f'{option}={path}']) == 2
        err = capsys.readouterr().err
        assert re.search(rf'{option}={path} cannot be written: .*({why})', err), err
    with pytest.raises(AssertionError, match='restored'):
        main([command, f'--workdir={teacher}', f'{option}={taken}'])
    assert read(taken) == [{}] and list(tmp_path.iterdir()) == [taken]


def test_text_alone_has_no_predictions(finished_run, tmp_path, capsys) -> None:
    argv = ['evaluate', f'--workdir={finished_run}', f'--predictions={tmp_path}/x.jsonl']
    assert main(argv) == 2
    assert 'predicts tokens, of which no row has one' in capsys.readouterr().err
