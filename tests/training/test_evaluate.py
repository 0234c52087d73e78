"""Evaluations: scores of whole splits, of other data than the run's, on any mesh."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn import metrics

from bigmodel.errors import UserError
from bigmodel.tasks.build import build_task
from bigmodel.training.evaluate import open_evaluations
from bigmodel.training.predictions import written
from bigmodel.training.setup import build
from experiments.defaults import evaluation
from tests.tasks.test_fine_tuning import PATHS, config_of

ROWS = [{'text': 'abc'[i % 3] * (1 + i % 5), 'label': 'xyz'[7 * i % 5 % 3]} for i in range(19)]
FORMAT = 'text(label="label")'


def classes_config(folder: Any, **changes: Any) -> ConfigDict:
    changes = {'data_format': FORMAT, 'model_head': 'classifier'} | changes
    return config_of(folder, ROWS, 'classification', **changes)


def moved(x: jax.Array) -> jax.Array:
    return x + 0.3 * jnp.sin(jnp.arange(x.size)).reshape(x.shape)


def evaluated(config: ConfigDict) -> dict[str, Any]:
    """Each evaluation's values and results, with the initial parameters; it names the values."""
    setup = build(config)
    with setup.sharding.active():
        params = jax.tree.map(moved, setup.initial_state().params)  # the head begins with zeros
        found = open_evaluations(setup)
        values = {name: (e(params), e.results(params)) for name, e in found.items()}
        assert all(e.names() == tuple(values[name][0]) for name, e in found.items())
        return values


def test_scores_are_of_every_row_once_on_any_mesh(tmp_path) -> None:
    config = classes_config(tmp_path)
    config.evals.validation.scores = ('f1', 'matthews')
    values, results = evaluated(config)['validation']
    rows = results.rows
    # 19 rows in batches of 8: those that fill up the last batch are not there.
    assert rows['index'].tolist() == list(range(19))
    assert [results.classes[c] for c in rows['target']] == [r['label'] for r in ROWS]
    want = metrics.f1_score(rows['target'], rows['prediction'], average='macro', zero_division=0)
    assert values['f1_macro'] == pytest.approx(want)
    right = (rows['target'] == rows['prediction']).mean()
    assert values['accuracy'] == pytest.approx(right)
    assert (rows['confidence'] > 0.333).all() and (rows['confidence'] <= 1).all()

    config.sharding.mesh = 'data=1'
    alone, others = evaluated(config)['validation']
    assert alone == pytest.approx(values, rel=1e-5)
    np.testing.assert_array_equal(rows['prediction'], others.rows['prediction'])


@pytest.mark.parametrize(
    ('task', 'scores', 'right'),
    [
        ('token_classification', ('f1',), lambda row: row['tags']),
        ('regression', ('pearson', 'spearman'), lambda row: row['score']),
        ('extractive_qa', ('exact_match', 'f1'), lambda row: (row['a'] or [''])[0]),
    ],
)
def test_each_task_has_its_scores(task, scores, right, tmp_path) -> None:
    head, format, example = PATHS[task]
    rows = [example(i) for i in range(11)]
    config = config_of(tmp_path, rows, task, data_format=format, model_head=head)
    config.evals.validation.scores = scores
    values, results = evaluated(config)['validation']
    assert set(scores) <= set(values) and len(results.rows['index']) == 11
    assert all(np.isfinite(values[name]) for name in scores)
    targets = [written(results, i, 'target', build_task(task).predicts) for i in range(11)]
    assert targets == [right(row) for row in rows]


def test_an_evaluation_may_have_other_data(tmp_path) -> None:
    other = tmp_path / 'other' / '{split}.jsonl'
    other.parent.mkdir()
    other.with_name('validation.jsonl').write_text(
        '\n'.join(json.dumps({'words': r['text'], 'c': 'z'}) for r in ROWS[:5])
    )
    config = classes_config(tmp_path)
    text = """path={} format='text("words","c",classes={})'"""
    names = '("x","y","z")'
    config.evals.other = evaluation('validation', data=text.format(other, names))
    found = evaluated(config)
    assert found['other'][1].rows['target'].tolist() == [2] * 5
    assert len(found['validation'][1].rows['target']) == 19

    config.evals.other.data = f'path={other} format=\'text("words","c")\''
    with pytest.raises(UserError, match=r'evals.other has the classes z, but .* x, y, z; name'):
        open_evaluations(build(config))
    config.evals.other.data = 'seq_len=3'
    with pytest.raises(UserError, match=r"evals.other.data: 'seq_len' cannot differ"):
        open_evaluations(build(config))
