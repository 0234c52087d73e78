"""The best evaluation and the end of patience, from the records of a run."""

import json
import math
import pathlib

import pytest

from bigmodel.errors import UserError
from bigmodel.training.progress import Best, watched

LOSSES = [3.0, 2.0, 2.0, math.nan, 1.95, 2.5]


@pytest.fixture
def records(tmp_path) -> pathlib.Path:
    """An evaluation every ten steps, with others between."""
    path = tmp_path / 'metrics.jsonl'
    with path.open('w') as file:
        for i, loss in enumerate(LOSSES, 1):
            for split, value in (('train', 0.0), ('validation', loss), ('test', -1.0)):
                record = {'step': 10 * i, 'split': split, 'loss': value, 'f1': value}
                file.write(json.dumps(record) + '\n')
    return path


def read(text: str, patience: bool = False):
    return watched(text, ['validation', 'test'], 'x', patience)


def test_the_best_is_the_first_of_the_lowest_or_highest(records) -> None:
    assert read('validation/loss').best(records) == Best(50, 1.95, 1)
    assert read('validation/f1').best(records) == Best(10, 3.0, 5)
    assert read('validation/loss: better=max').best(records) == Best(10, 3.0, 5)
    assert read('test/loss').best(records) == Best(10, -1.0, 5)
    assert read('').best(records).step == 0 and read('').told(Best()) is None


def test_patience_counts_evaluations_that_are_not_better(records) -> None:
    for text, ends in (
        ('validation/loss: patience=1', True),
        ('validation/loss: patience=2', False),
        ('validation/loss: patience=4 least=0.1', True),  # 1.95 is not better enough than 2
        ('validation/loss: patience=5 least=0.1', False),
        ('', False),
    ):
        assert bool(read(text, True).reason_to_stop(records)) == ends, text
    reason = read('validation/loss: patience=1', True).reason_to_stop(records)
    assert reason == 'validation/loss has not been better than 1.9500 of step 50 for 1 evaluations'


@pytest.mark.parametrize(
    ('text', 'patience', 'message'),
    [
        ('loss', False, r"cannot read 'loss'; write 'validation/loss'"),
        ('dev/loss', False, r"evals has no 'dev'; there: validation, test"),
        ('validation/speed', False, r"which way is 'speed' better\? Write .*better=min"),
        ('validation/loss', True, r"write 'validation/loss: patience=3'"),
        ('validation/loss: patience=0', True, 'patience must be at least 1'),
        ('validation/loss: patience=x', True, 'invalid literal'),
        ('validation/loss: patience=3', False, "cannot read 'patience'"),
    ],
)
def test_what_cannot_be_read_is_refused(text, patience, message) -> None:
    with pytest.raises(UserError, match=message):
        read(text, patience)


def test_a_metric_that_is_not_logged_is_refused_and_the_nearest_named() -> None:
    def names(evaluation: str) -> tuple[str, ...]:
        return {'validation': ('loss', 'f1_macro')}[evaluation]

    read('validation/loss').check(names, 'x')
    read('').check(names, 'x')
    message = (
        r"x: evals.validation logs no 'f1_mac'. Did you mean 'f1_macro'\? It logs: loss, f1_macro"
    )
    with pytest.raises(UserError, match=message):
        read('validation/f1_mac: better=max').check(names, 'x')


def test_an_evaluation_in_which_nothing_counted_is_never_better(records) -> None:
    with records.open('a') as file:
        file.write(json.dumps({'step': 70, 'split': 'validation', 'loss': math.nan}) + '\n')
    assert read('validation/f1').best(records) == Best(10, 3.0, 6)
