"""Texts that an evaluation generates: those of `generate`, on any mesh, of the examples it says."""

from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from bigmodel.data.formats import build_format
from bigmodel.errors import UserError
from bigmodel.inference.generate import Sampling, generate
from bigmodel.scores.results import Results
from bigmodel.training.evaluate import Evaluation, judges_of, open_evaluations
from bigmodel.training.predictions import predictions
from bigmodel.training.setup import build
from tests.tasks.test_fine_tuning import config_of
from tests.training.test_evaluate import moved

ROWS = [{'prompt': 'ask ' * (1 + i % 4), 'response': f'yes {i}'} for i in range(11)]
NEW = 8
PATHS = {
    'instruction': {'data_packing': 'pad'},
    'seq2seq(target_length=9)': {
        'data_packing': 'sides(truncate=True)',
        'model_encoder_depth': 1,
        'model_cross': 'attention',
    },
}


def config_for(folder: Any, task: str, rows: list = ROWS, **changes: Any) -> ConfigDict:
    shape = {'model_mask': 'causal', 'model_head': 'lm(tied=False)', 'data_format': 'prompt'}
    config = config_of(folder, rows, task, **shape | PATHS[task] | changes)
    config.evals.validation.scores = ('rouge', 'exact_match')
    config.evals.validation.update(generate_rows=5, max_tokens=NEW)
    return config


def evaluated(config: ConfigDict) -> tuple[dict[str, float], Results, Evaluation, Any]:
    setup = build(config)
    with setup.sharding.active():
        params = jax.tree.map(moved, setup.initial_state().params)
        evaluation = Evaluation(setup, 'validation', config.evals.validation, judges_of(setup))
        values, results = evaluation.scored(params)
        assert evaluation.names() == tuple(values)
        return values, results, evaluation, jax.device_get(params)


@pytest.mark.parametrize('task', PATHS)
def test_texts_are_those_of_each_prompt_alone(task: str, tmp_path) -> None:
    config = config_for(tmp_path, task)
    values, results, evaluation, params = evaluated(config)
    assert {'loss', 'rouge1', 'rouge2', 'rougeL', 'exact_match'} <= set(values)
    documents = [i * 11 // 5 for i in range(5)]
    assert [text.document for text in results.texts] == documents
    assert [text.target for text in results.texts] == [ROWS[i]['response'] for i in documents]
    setup, format = build(config), build_format('prompt')
    for text in results.texts[1:2]:
        (alone,) = generate(
            setup.model,
            params,
            setup.data.tokenizer,
            ROWS[text.document]['prompt'],
            Sampling(NEW, temperature=0.0),
            task=setup.task,
            format=format,
        )
        assert text.prediction == alone
    lines = list(predictions(evaluation, results))
    assert [line['place'].rpartition(':')[2] for line in lines] == [str(i + 1) for i in documents]
    assert set(lines[0]) == {'index', 'place', 'prediction', 'target'}

    config.sharding.mesh = 'data=1'
    assert evaluated(config)[1].texts == results.texts


def test_a_conversation_is_answered_where_it_ends(tmp_path) -> None:
    turns = [('user', 'hi'), ('assistant', 'one'), ('user', 'and'), ('assistant', 'two')]
    rows = [{'messages': [{'role': r, 'content': c} for r, c in turns]}] * 9
    config = config_for(tmp_path, 'instruction', rows, data_format='chat', data_seq_len=160)
    results = evaluated(config)[1]
    assert {text.target for text in results.texts} == {'two<|im_end|>\n'}


def test_prompts_that_have_no_place_are_left_out(tmp_path) -> None:
    rows = [row | {'prompt': row['prompt'] * (1 + 20 * (i % 2))} for i, row in enumerate(ROWS)]
    config = config_for(tmp_path, 'instruction', rows, data_packing='first_fit')
    config.evals.validation.generate_rows = 0
    results = evaluated(config)[1]
    assert [text.document for text in results.texts] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'scores': ('f1',)}, "'f1' does not fit this task; those that do: exact_match, .*bleu"),
        ({'max_tokens': 49}, 'max_tokens=49, but the model has learned positions for 48'),
        ({'max_tokens': 46}, 'no prompt among 5 examples has at most 2 tokens'),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(changes, message, tmp_path) -> None:
    config = config_for(tmp_path, 'instruction', model_position='learned', model_max_length=48)
    config.evals.validation.update(changes)
    setup = build(config)
    with setup.sharding.active(), pytest.raises(UserError, match=message):
        open_evaluations(setup)
