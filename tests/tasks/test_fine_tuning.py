"""Pairs, tokens, numbers and spans: losses of Hugging Face, targets by hand, and whole paths."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bigmodel.data.pipeline import open_data
from bigmodel.errors import UserError
from bigmodel.scores.answers import overlap, per_question
from bigmodel.tasks.build import build_task
from bigmodel.tasks.extractive_qa import spans_of
from bigmodel.training.evaluate import Evaluation, judges_of
from bigmodel.training.outline import resolve
from bigmodel.training.predictions import predictions
from bigmodel.training.setup import build
from bigmodel.training.step import make_train_step
from experiments import defaults
from tests.golden.values import golden_file
from tests.small import quick_jit
from tests.tasks.test_tasks import fixed_logits, lm_batch

LENGTH = 48


def test_losses_are_hugging_faces() -> None:
    golden = golden_file('tuning')
    batch = lm_batch(np.zeros(golden['classes'].shape, np.int32))
    targets = {'targets': jnp.asarray(golden['classes'])}
    got = build_task('token_classification')(fixed_logits(golden['logits']), batch | targets, None)
    assert got['loss'].value() == pytest.approx(golden['classes_loss'], rel=1e-5)
    assert got['loss'].weight == (golden['classes'] >= 0).sum() > 0

    spans = {k: jnp.asarray(golden[k]) for k in ('start', 'end')}
    spans |= {'candidates': jnp.ones(golden['classes'].shape, int)}
    spans |= {'weights': jnp.ones(4), 'counts': jnp.ones(4)}
    got = build_task('extractive_qa')(fixed_logits(golden['ends']), batch | spans, None)
    # Theirs is the mean of both ends, the paper's the sum.
    assert got['loss'].value() == pytest.approx(2 * golden['span_loss'], rel=1e-5)

    labels = {'label': jnp.asarray(golden['numbers'])}
    got = build_task('regression')(fixed_logits(golden['predicted']), batch | labels, None)
    assert got['loss'].value() == got['mse'].value() == pytest.approx(golden['mse'], rel=1e-5)
    assert got['mae'].value() == pytest.approx(golden['mae'], rel=1e-5)


def test_the_best_span_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    starts, ends = rng.standard_normal((2, 50, 9)).astype(np.float32)
    can = rng.random((50, 9)) < 0.6
    can[:, 0], can[0, 1:] = True, False  # the first row has no context
    logits = [jnp.where(can, x, -1e30) for x in (starts, ends)]
    (start, end), score = spans_of(*logits, jnp.asarray(can))
    start, end = (x * (score > starts[:, 0] + ends[:, 0]) for x in (start, end))
    answered = 0
    for b in range(50):
        spans = [(i, j) for i in range(1, 9) for j in range(i, 9) if can[b, i] and can[b, j]]
        want = max([(0, 0), *spans], key=lambda s: starts[b, s[0]] + ends[b, s[1]])
        assert (int(start[b]), int(end[b])) == want
        answered += want != (0, 0)
    assert 10 < answered < 49


def test_spans_outside_the_context_cost_and_win_nothing() -> None:
    logits = np.zeros((1, 6, 2))
    logits[0, 1] = 50  # of the question
    batch = {
        'tokens': jnp.zeros((1, 6), int),
        'start': jnp.array([3]),
        'end': jnp.array([4]),
        'candidates': jnp.array([[1, 0, 1, 1, 1, 0]]),
        'weights': jnp.ones(1),
        'counts': jnp.ones(1),
    }
    logits[0, 3, 0] = logits[0, 4, 1] = 1
    metrics = build_task('extractive_qa')(fixed_logits(logits), batch, None)
    assert metrics['loss'].value() == pytest.approx(2 * np.log(1 + 3 / np.e), rel=1e-5)
    assert metrics['accuracy'].value() == 1


def test_a_choice_is_the_softmax_of_the_scores_of_its_documents() -> None:
    rng = np.random.default_rng(0)
    scores, tokens = rng.standard_normal(12), rng.integers(0, 9, (4, 3, 5))
    seen = {}

    def model(inputs: Any, positions: Any, segments: Any, key: Any) -> jax.Array:
        seen.update(inputs=inputs, positions=positions, segments=segments)
        return jnp.asarray(scores, jnp.float32)

    label, valid = np.array([2, 0, 1, 0]), np.array([1.0, 1, 1, 0])
    batch = {'tokens': tokens, 'segments': tokens + 1, 'positions': tokens + 2}
    batch = {k: jnp.asarray(v) for k, v in (batch | {'label': label, 'valid': valid}).items()}
    metrics = build_task('multiple_choice(group=3)')(model, batch, None)
    p = np.exp(scores.reshape(4, 3))[:3]
    p /= p.sum(1, keepdims=True)
    assert metrics['loss'].value() == pytest.approx(-np.log(p[[0, 1, 2], label[:3]]).mean(), 1e-5)
    assert metrics['accuracy'].value() == pytest.approx(np.mean(p.argmax(1) == label[:3]))
    np.testing.assert_array_equal(seen['inputs'], tokens.reshape(12, 5))
    np.testing.assert_array_equal(seen['segments'], tokens.reshape(12, 5) + 1)
    np.testing.assert_array_equal(seen['positions'], tokens.reshape(12, 5) + 2)


def config_of(folder: Any, rows: list[dict[str, Any]], task: str, **changes: Any) -> ConfigDict:
    """A run of a small model on these rows as JSONL, the same for all splits."""
    for split in ('train', 'validation'):
        (folder / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    c = defaults.get_config()
    c.task = task
    c.data.update(source='jsonl', path=f'{folder}/{{split}}.jsonl', cache_dir=str(folder / 'cache'))
    c.data.update(packing='pad', seq_len=LENGTH, batch_size=8, workers=1)
    c.model.update(depth=1, width=32, num_heads=4, mask='full')
    c.optimizer.learning_rate, c.schedule = 1e-2, 'constant'
    for key, value in changes.items():
        c[key.partition('_')[0]][key.partition('_')[2]] = value
    return resolve(c)


def made(config: ConfigDict) -> dict[str, np.ndarray]:
    """The first rows as the config's task prepares them, in order."""
    data = open_data(
        config.data,
        'train',
        length=LENGTH,
        shuffle=False,
        prepare=build_task(config.task).prepare,
    )
    return data.batches(0)


TAGGED = {'tokens': ['Ada', 'ran', 'home'], 'tags': ['PER', 'O', 'LOC']}


@pytest.mark.parametrize('packing', ['pad', 'first_fit'])
@pytest.mark.parametrize(
    ('first', 'want'), [(True, 'P...O...L...O'), (False, 'PPP.OOO.LLLLO')], ids=['first', 'all']
)
def test_classes_are_of_the_tokens_of_words(tmp_path, packing, first, want) -> None:
    rows = [TAGGED, {'tokens': ['x'], 'tags': ['O']}]
    changes = {'data_format': f'tags(first={first})', 'data_packing': packing, 'data_batch_size': 2}
    batch = made(config_of(tmp_path, rows, 'token_classification', **changes))
    tokens, targets, segments = (
        batch[name][batch['valid'] > 0].ravel() for name in ('tokens', 'targets', 'segments')
    )
    names = {-1: '.', 0: 'L', 1: 'O', 2: 'P'}
    text = ''.join(names[t] for t in targets[(tokens < 256) & (segments > 0)])
    assert text == want
    assert (targets[tokens >= 256] == -1).all()


def test_a_word_without_a_class_is_text_that_does_not_count(tmp_path) -> None:
    rows = [{'tokens': ['if', '  ', 'x'], 'tags': ['K', None, 'N']}]
    batch = made(config_of(tmp_path, rows, 'token_classification', data_format='tags(join="")'))
    assert batch['tokens'][0, 1:6].tolist() == [*b'if  x']
    assert batch['targets'][0, :7].tolist() == [-1, 0, -1, -1, -1, 1, -1]


QUESTIONS = [
    {'question': 'who?', 'context': 'by Ada L.', 'answers': {'text': ['Ada'], 'answer_start': [3]}},
    {'question': 'who?', 'context': 'by Ada', 'answers': {'text': ['Ada'], 'answer_start': [3]}},
    {'question': 'who?', 'context': 'by Bob', 'answers': {'text': [], 'answer_start': []}},
    {
        'question': 'q' * 40,
        'context': 'by Ada L.',
        'answers': {'text': ['Ada L'], 'answer_start': [3]},
    },
    {'question': 'q' * 60, 'context': 'by', 'answers': {'text': ['by'], 'answer_start': [0]}},
]


def test_spans_are_of_the_answers(tmp_path) -> None:
    changes = {'data_format': 'span(unanswerable=True)', 'data_packing': 'pad(truncate=True)'}
    batch = made(config_of(tmp_path, QUESTIONS, 'extractive_qa', **changes))
    found = []
    for i in range(len(QUESTIONS)):
        start, end = int(batch['start'][i]), int(batch['end'][i])
        answer = bytes(batch['tokens'][i, start : end + 1].clip(0, 255).astype(np.uint8))
        found.append(answer.decode() if end else None)
    assert found[:3] == ['Ada', 'Ada', None]
    # The fourth is cut within the answer, and so does not count; the last before its context.
    assert batch['weights'].tolist()[:5] == [1, 1, 1, 0, 1] and found[4] is None
    for i, row in enumerate(QUESTIONS[:3]):
        places = np.flatnonzero(batch['candidates'][i])
        assert places[0] == 0
        assert bytes(batch['tokens'][i, places[1:]].astype(np.uint8)) == row['context'].encode()


def test_windows_without_the_answer_have_none_or_are_left_out(tmp_path) -> None:
    changes = {'data_format': 'span(unanswerable=True)', 'data_packing': 'strided(stride=4)'}
    for row in (long := [dict(row) for row in QUESTIONS[:3]]):
        row['context'] += '.' * 60
    learned = made(config_of(tmp_path, long, 'extractive_qa', **changes))
    # The answers are in the first windows alone, but for that of the last question: there is none.
    first = np.flatnonzero(learned['elsewhere'] == 0)[:1]
    assert learned['end'][first] > 0 and learned['elsewhere'][1] == 1
    assert learned['start'][1] == learned['end'][1] == 0
    assert learned['weights'].tolist() == [1] * 8
    task = 'extractive_qa(without="left_out")'
    out = made(config_of(tmp_path, long, task, **changes))
    np.testing.assert_array_equal(out['weights'], 1 - out['elsewhere'])
    assert out['counts'].tolist() == [1] * 8
    metrics, rows = build_task(task).judge(
        fixed_logits(np.zeros((8, LENGTH, 2))), {k: jnp.asarray(v) for k, v in out.items()}, None
    )
    assert metrics['loss'].weight == (1 - out['elsewhere']).sum() < rows['weight'].sum()


def test_questions_are_scored_over_their_windows_by_all_right_answers(tmp_path) -> None:
    """A line for each question, and F1 of the answers of the file, whatever rows they are in."""
    rows = []
    for i in range(9):
        context = ''.join(np.random.default_rng(i).choice(list('ab '), 20 + 10 * i)) + ' Ada Byron'
        begin = context.index('Ada')
        answers = {'text': ['Ada', 'Ada Byron'], 'answer_start': [begin, begin]}
        rows.append({'question': 'who?', 'context': context, 'answers': answers})
    changes = {'data_format': 'span', 'data_packing': 'strided(stride=7)', 'model_head': 'span'}
    config = config_of(tmp_path, rows, 'extractive_qa', **changes)
    config.evals.validation.scores = ('f1', 'exact_match')
    setup = build(config)
    with setup.sharding.active():
        entry = config.evals.validation
        entry.batches = 0
        evaluation = Evaluation(setup, 'validation', entry, judges_of(setup))
        params = setup.initial_state().params
        values, results = evaluation.scored(params)
        lines = list(predictions(evaluation, results))
        assert [line['index'] for line in lines] == list(range(9)) != results.rows['index'].tolist()
        assert [line['target'] for line in lines] == ['Ada'] * 9
        said = [line['prediction'] for line in lines]
        want = [max(overlap(text, right) for right in ('Ada', 'Ada Byron')) for text in said]
        assert values['f1'] == pytest.approx(np.mean(want))
        entry.batches = 1  # of whose questions the last one has more windows
        values, results = Evaluation(setup, 'x', entry, judges_of(setup)).scored(params)
        assert len(list(per_question(results).rows['index'])) < len(
            np.unique(results.rows['document'])
        )


def letters(i: int) -> list[str]:
    return list(np.random.default_rng(i).choice(list('abcd'), 6))


# Task -> (its head, its format, an example that can be learned in a few updates).
PATHS = {
    'classification': (
        'classifier',
        'pair("first", "second")',
        lambda i: {'first': 'abc'[i % 3] * 4, 'second': 'ab'[i % 2] * 4, 'label': i % 2},
    ),
    'token_classification': (
        'token_classifier',
        'tags',
        lambda i: {'tokens': letters(i), 'tags': [ord(x) % 2 for x in letters(i)]},
    ),
    'regression': (
        'regressor',
        'score("first", "second")',
        lambda i: {'first': 'x', 'second': 'ab'[i % 2] * 4, 'score': 1.5 * (i % 2) - 1},
    ),
    'multiple_choice(group=3)': (
        'regressor',
        'choices("options", group=3)',
        lambda i: {
            'question': 'xy'[i % 2],
            'options': [c * 3 for c in np.roll(list('abc'), i % 3)],
            'label': (i + i % 2) % 3,
        },
    ),
    'extractive_qa': (
        'span',
        'span("question", "context", "a", "s", unanswerable=True)',
        lambda i: (
            {
                'question': '?',
                'context': '....' * (i % 3) + 'ab..',
                'a': ['ab'] if i % 4 else [],
                's': [4 * (i % 3)] if i % 4 else [],
            }
            | ({} if i % 4 else {'context': '......'})
        ),
    ),
}


@pytest.mark.parametrize('task', PATHS)
def test_each_task_trains_from_files(task, tmp_path) -> None:
    """From JSONL through the store and the pipeline to forty updates."""
    head, format, example = PATHS[task]
    rows = [example(i) for i in range(32)]
    config = config_of(tmp_path, rows, task, data_format=format, model_head=head)
    setup = build(config)
    step = quick_jit(make_train_step(setup.model, setup.task, setup.optimizer, 1))
    with setup.sharding.active():
        started = setup.initial_state(), setup.hparams
    state, hparams = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), started)  # on one device
    losses = []
    for i in range(40):
        state, metrics = step(state, setup.data.batches(i), hparams)
        losses.append(metrics['loss'].value())
    assert losses[-1] < 0.2 * losses[0], losses


CLASSES = [
    {'text': f'row {i}', 'label': i % 2, 'score': i / 2, 'o': list('abcd')} for i in range(32)
]
LABELLED, SCORED = 'text(label="label")', 'score'
CHOICES = {'data_format': 'choices("o", question="text")', 'model_head': 'regressor'}
QA = {'data_format': 'span(unanswerable=True)', 'model_head': 'span'}


@pytest.mark.parametrize(
    ('task', 'changes', 'message'),
    [
        (
            'regression',
            {'data_format': LABELLED, 'model_head': 'regressor'},
            'needs data.format=score, which teach number; not',
        ),
        (
            'classification',
            {'data_format': SCORED, 'model_head': 'classifier'},
            'needs data.format=text or pair, which teach class; not',
        ),
        (
            'token_classification',
            {'data_format': LABELLED, 'model_head': 'token_classifier'},
            'needs data.format=tags',
        ),
        (
            'regression',
            {'data_source': 'digits', 'model_head': 'regressor'},
            "data.source='digits' has none",
        ),
        (
            'regression',
            {'data_format': SCORED, 'model_head': 'lm'},
            "needs model.head='regressor', not 'lm'",
        ),
        (
            'regression',
            {'data_format': SCORED, 'model_head': 'regressor', 'data_packing': 'first_fit'},
            "data.packing='first_fit' mixes documents",
        ),
        (
            'classification',
            {'data_format': LABELLED, 'model_head': 'regressor'},
            "needs model.head='classifier'",
        ),
        (
            'multiple_choice',
            CHOICES | {'data_packing': 'windows'},
            "documents of an example; use 'pad'",
        ),
        (
            'multiple_choice(group=3)',
            CHOICES,
            'reads 3 documents of an example, .* makes 4; give both the same group=',
        ),
        ('multiple_choice(group=1)', CHOICES, 'must be at least 2, got 1'),
        (
            'multiple_choice',
            CHOICES | {'data_format': LABELLED},
            'needs data.format=choices, which teach choice; not',
        ),
        ('extractive_qa', QA | {'data_packing': 'windows'}, 'set data.packing=pad or strided, not'),
        ('extractive_qa', QA | {'model_mask': 'causal'}, 'predicts from both sides'),
        (
            'extractive_qa',
            QA | {'data_packing': 'pad(truncate=True)', 'data_seq_len': 4},
            'learns span, of which .* rows have no token within data.seq_len=4',
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(tmp_path, task, changes, message) -> None:
    rows = 8 * QUESTIONS if 'span' in changes.values() else CLASSES
    changes = {'data_seq_len': 96} | changes
    with pytest.raises(UserError, match=message):
        build(config_of(tmp_path, rows, task, **changes))
