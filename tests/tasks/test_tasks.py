"""Losses against PyTorch; padding and packing are exact; each task overfits one batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.formats import FORMATS
from bigmodel.data.plain_tokenizers import CharTokenizer
from bigmodel.errors import UserError
from bigmodel.layers.kernel import MASKED
from bigmodel.models.heads import HEADS
from bigmodel.models.model import Model
from bigmodel.tasks.build import TASKS, build_task
from bigmodel.tasks.losses import cross_entropy
from bigmodel.tasks.task import Task
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import State, abstract_params
from bigmodel.training.step import make_loss_fn, make_train_step
from tests.golden.values import golden
from tests.small import (
    VOCAB,
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

LENGTH, LABELS = 12, 3
# Float32 sums of at most 24 tokens through two layers, in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_and_its_gradient_are_pytorchs(smoothing: float) -> None:
    values, targets = golden(f'cross_entropy/{smoothing}'), golden('cross_entropy')['targets']
    loss, vjp = jax.vjp(lambda x: cross_entropy(x, targets, smoothing)[0], values['logits'])
    # Golden values are float64; sums of 11 float32 exponentials.
    np.testing.assert_allclose(loss, values['output'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        vjp(values['cotangent'])[0], values['d_logits'], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_z_loss_is_added_as_the_square_of_log_z(smoothing: float) -> None:
    logits, targets = golden('cross_entropy/0.0')['logits'], golden('cross_entropy')['targets']
    plain, _, _ = cross_entropy(logits, targets, smoothing)
    loss, nll, correct = cross_entropy(logits, targets, smoothing, 0.01)
    log_z = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1))
    np.testing.assert_allclose(loss - plain, 0.01 * log_z**2, rtol=1e-3, atol=1e-6)
    picked = np.take_along_axis(np.asarray(logits), np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, log_z - picked, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(correct, np.argmax(logits, -1) == targets)


def test_smoothing_gives_nothing_to_masked_ids() -> None:
    logits, targets = golden('cross_entropy/0.0')['logits'], golden('cross_entropy')['targets']
    padded = jnp.pad(logits, ((0, 0),) * (logits.ndim - 1) + ((0, 5),), constant_values=MASKED)
    for got, want in zip(
        cross_entropy(padded, targets, 0.1, 0.01),
        cross_entropy(logits, targets, 0.1, 0.01),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def lm_batch(tokens: Any, segments: Any = None, **more: Any) -> dict[str, jax.Array]:
    tokens = np.asarray(tokens)
    segments = np.ones_like(tokens) if segments is None else np.asarray(segments)
    batch = {'tokens': tokens, 'positions': slots(*tokens.shape), 'segments': segments} | more
    return {k: jnp.asarray(v) for k, v in batch.items()}


def classification_batch(seed: int = 0) -> dict[str, jax.Array]:
    batch = lm_batch(random_tokens(4, LENGTH, seed))
    return batch | {'label': jnp.array([0, 1, 2, 1])}


# Task -> the slots of a model for it.
SHAPES = {
    'causal_lm': {},
    'prefix_lm': {'mask': 'prefix'},
    'masked_lm': {'mask': 'full', 'head': 'mlm'},
    'replaced_tokens': {'mask': 'full', 'head': 'detector'},
    'masked_images': {
        'inputs': 'patches(size=2, channels=1, mask_token=True)',
        'mask': 'full',
        'head': 'pixels',
    },
    'span_corruption': {'encoder_depth': 2, 'cross': 'attention'},
    'ul2': {'encoder_depth': 2, 'cross': 'attention'},
    'classification': {'mask': 'full', 'head': 'classifier'},
    'token_classification': {'mask': 'full', 'head': 'token_classifier'},
    'regression': {'mask': 'full', 'head': 'regressor'},
    'extractive_qa': {'mask': 'full', 'head': 'span'},
    'multiple_choice': {'mask': 'full', 'head': 'regressor'},
    'instruction': {},
    'seq2seq': {'encoder_depth': 2, 'cross': 'attention'},
    'dpo': {},
    'simpo': {},
    'distillation': {},
    'joint': {'head': 'joint'},
}
# Task -> the slots in which its companions differ from its own model.
FROZEN = {'replaced_tokens': SHAPES['masked_lm']}
# Task -> marks of four rows, for those that learn from marks.
MARKS = {
    'token_classification': lambda length: (np.arange(4 * length) % 4).reshape(4, length),
    'extractive_qa': lambda length: np.stack(
        [np.where(np.arange(length) < 3, 0, 2 - (abs(np.arange(length) - c) < 2)) for c in SPANS]
    ),
    'instruction': lambda length: np.arange(length) >= np.array([[3], [5], [8], [4]]),
    'seq2seq': lambda length: np.arange(length) >= np.array([[3], [5], [8], [4]]),
    'dpo': lambda length: np.tile(np.arange(length) >= 5, (8, 1)),
    'simpo': lambda length: np.tile(np.arange(length) >= 5, (8, 1)),
}
SPANS = (5, 8, 20, 7)  # the middle of each row's answer; the third has none
# Tasks that need arguments for a vocabulary as small as this, or for a loss that can come near 0.
DECODER_ONLY = 'span_corruption(sentinels=4, decoder_only=True)'
SPECS = {
    'masked_images': 'masked_images(size=2)',
    'span_corruption': 'span_corruption(sentinels=4)',
    'ul2': 'ul2(sentinels=4)',
    'simpo': 'simpo(gamma=0.0)',
    'seq2seq': 'seq2seq(target_length=8)',
    'multiple_choice': 'multiple_choice(group=3)',
}


def name_of(task: Task) -> str:
    return next(name for name, part in TASKS.items() if part is type(task))


def batch_of(task: Task) -> dict[str, jax.Array]:
    """Four rows as the task prepares them, with as many symbols as it leaves ids."""
    tokenizer = CharTokenizer(''.join(chr(65 + i) for i in range(VOCAB - task.extra_ids)))
    tokens = random_tokens(4 * task.group, LENGTH + task.extra_tokens) % tokenizer.vocab_size
    rows = lm_batch(tokens) if 'tokens' in task.reads else {'image': pictures()}
    if marks := MARKS.get(name_of(task)):
        rows['marks'] = marks(LENGTH + task.extra_tokens).astype(np.int32)
    if task.group > 1:
        rows = {k: v.reshape(4, task.group, -1) for k, v in rows.items()}
    rows |= {'label': np.array([0, 1, 2, 1])} if task.labelled else {}
    keys = np.arange(4, dtype=np.uint64)
    made = task.prepare({k: np.asarray(v) for k, v in rows.items()}, Draws(keys), tokenizer)
    return {k: jnp.asarray(v) for k, v in made.items()}


def companion_models(task: Task, model: Model, **more: Any) -> dict[str, Model]:
    """Those of a task's companions: its own model, unless `FROZEN` has another."""
    theirs = FROZEN.get(name_of(task))
    made = small_model(LENGTH, LABELS, **theirs, **more) if theirs else model
    return dict.fromkeys(task.companions, made)


def pictures() -> np.ndarray:
    """Four images of 3 × 4 patches of 2 × 2 pixels, each black or white."""
    shades = np.array([0, 255, 0, 255], np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (4, 6, 8, 1))


def test_every_task_has_a_model() -> None:
    assert set(SHAPES) == set(TASKS)


@pytest.mark.parametrize('name', TASKS)
def test_every_task_has_heads_and_formats(name: str) -> None:
    task = build_task(SPECS.get(name, name))
    assert {*task.heads} <= {head.predicts for head in HEADS.values()}
    formats = [part for part in FORMATS.values() if task.learns in ('', part.teaches)]
    assert formats
    # A task that reads labels or marks learns from formats that have them.
    assert not task.labelled or all(f.scored or hasattr(f, 'label') for f in formats)
    assert name not in MARKS or all(f.marked for f in formats)


def evaluated(spec: str, model: Model, params: Any, batch: dict[str, jax.Array]) -> tuple:
    """(metrics, gradients of the mean loss)."""
    metrics, grads = compiled(spec, model)(params, batch)
    return {k: m.value() for k, m in metrics.items()}, grads


@functools.cache
def compiled(spec: str, model: Model) -> Any:
    task = build_task(spec)
    models = companion_models(task, model)
    loss_fn = make_loss_fn(model, task, models)
    frozen = {name: random_params(theirs, 1) for name, theirs in models.items()}

    def run(params: Any, batch: dict[str, jax.Array]) -> tuple:
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, batch, None, frozen)
        return metrics, jax.tree.map(lambda g: g / metrics['loss'].weight, grads)

    return quick_jit(run)


@pytest.fixture(scope='module')
def lm() -> tuple[Model, Any]:
    model = small_model(LENGTH)
    return model, random_params(model)


@pytest.fixture(scope='module')
def classifier() -> tuple[Model, Any]:
    model = small_model(LENGTH, LABELS, mask='full', head='classifier')
    return model, random_params(model)


def fixed_logits(logits: np.ndarray) -> Callable[..., jax.Array]:
    return lambda *args: jnp.asarray(logits)


def test_causal_lm_predicts_the_next_token_of_the_same_document() -> None:
    tokens, logits = random_tokens(2, 6), np.random.default_rng(0).standard_normal((2, 5, 32))
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    metrics = build_task('causal_lm')(fixed_logits(logits), lm_batch(tokens, segments), None)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = [
        -log_p[b, i, tokens[b, i + 1]]
        for b in range(2)
        for i in range(5)
        if segments[b, i] == segments[b, i + 1] and segments[b, i + 1] > 0
    ]
    assert float(metrics['nll'].weight) == len(want) == 8
    assert metrics['nll'].value() == pytest.approx(np.mean(want), rel=1e-5)
    assert metrics['loss'].value() == metrics['nll'].value()


def test_causal_lm_counts_each_prediction_by_the_weight_of_its_token() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5)).astype(np.float32)
    tokens = rng.integers(0, 5, (2, 5)).astype(np.int32)
    weights = np.array([[9, 0, 1, 0, 0.5], [9, 1, 0, 0, 0]], np.float32)  # the first has no use
    batch = {'tokens': jnp.asarray(tokens), 'weights': jnp.asarray(weights)}
    metrics = build_task('causal_lm')(fixed_logits(logits), batch, None)
    total = right = 0.0
    for row, place, weight in ((0, 2, 1.0), (0, 4, 0.5), (1, 1, 1.0)):
        scores, target = logits[row, place - 1].astype(np.float64), tokens[row, place]
        total += weight * (np.log(np.exp(scores).sum()) - scores[target])
        right += weight * (scores.argmax() == target)
    np.testing.assert_allclose(metrics['loss'].value(), total / 2.5, rtol=1e-5)
    np.testing.assert_allclose(metrics['accuracy'].value(), right / 2.5, rtol=1e-6)


def test_causal_lm_shows_the_model_all_but_the_last_token() -> None:
    seen = {}

    def model(tokens: Any, positions: Any, segments: Any, key: Any) -> jax.Array:
        seen.update(tokens=tokens, positions=positions, segments=segments, key=key)
        return jnp.zeros((*tokens.shape, 32))

    batch = lm_batch(random_tokens(2, 6))
    build_task('causal_lm')(model, batch, jax.random.key(1))
    for name in ('tokens', 'positions', 'segments'):
        np.testing.assert_array_equal(seen[name], batch[name][:, :-1])
    assert seen['key'] == jax.random.key(1)


def test_rows_without_coordinates_are_one_document_each(lm: tuple) -> None:
    tokens = random_tokens(2, LENGTH + 1)
    bare = {'tokens': jnp.asarray(tokens)}
    got, want = (evaluated('causal_lm', *lm, b) for b in (bare, lm_batch(tokens)))
    assert got[0] == pytest.approx(want[0], rel=1e-5)


def test_padding_changes_neither_loss_nor_gradients(lm: tuple) -> None:
    tokens = random_tokens(2, LENGTH + 1)
    segments = np.array([[1] * 13, [1] * 8 + [0] * 5])
    padded = lm_batch(tokens, segments)
    garbage = lm_batch(np.where(segments > 0, tokens, (tokens + 7) % 32), segments)
    more = lm_batch(np.vstack([tokens, tokens]), np.vstack([segments, 0 * segments]))
    want = evaluated('causal_lm(z_loss=0.01, label_smoothing=0.1)', *lm, padded)
    for batch in (garbage, more):
        got = evaluated('causal_lm(z_loss=0.01, label_smoothing=0.1)', *lm, batch)
        assert got[0] == pytest.approx(want[0], rel=1e-5)
        assert_trees_close(got[1], want[1], **CLOSE)


def test_packed_documents_have_the_loss_and_gradients_of_separate_rows(lm: tuple) -> None:
    a, b = random_tokens(1, 7, 1)[0], random_tokens(1, 6, 2)[0]
    packed = lm_batch([[*a, *b]], [[1] * 7 + [2] * 6])
    packed['positions'] = jnp.array([[*range(7), *range(6)]])
    apart = lm_batch([[*a, *[0] * 6], [*b, *[0] * 7]], [[1] * 7 + [0] * 6, [1] * 6 + [0] * 7])
    got, want = (evaluated('causal_lm', *lm, batch) for batch in (packed, apart))
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    assert_trees_close(got[1], want[1], **CLOSE)


@pytest.mark.parametrize('name', TASKS)
def test_invalid_rows_do_not_count(name: str) -> None:
    """Rows that fill up the last batch of an evaluation."""
    spec = SPECS.get(name, name)
    batch = batch_of(build_task(spec))
    built = small_model(LENGTH, LABELS, **SHAPES[name])
    model = built, random_params(built)
    some = {k: v[:3] for k, v in batch.items()}
    filled = batch | {'valid': jnp.array([1.0, 1.0, 1.0, 0.0])}
    got, want = (evaluated(spec, *model, b) for b in (filled, some))
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    assert_trees_close(got[1], want[1], **CLOSE)


def test_classification_is_cross_entropy_of_rows() -> None:
    logits = np.random.default_rng(0).standard_normal((4, LABELS))
    batch = classification_batch() | {'label': jnp.array([0, 2, -1, 1])}
    metrics = build_task('classification(label_smoothing=0.3)')(fixed_logits(logits), batch, None)
    log_p = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[[0, 1, 3]]
    nll = -log_p[np.arange(3), [0, 2, 1]]
    assert metrics['nll'].value() == pytest.approx(nll.mean(), rel=1e-5)
    smooth = 0.7 * nll - 0.3 * log_p.mean(-1)
    assert metrics['loss'].value() == pytest.approx(smooth.mean(), rel=1e-5)
    right = np.argmax(log_p, -1) == [0, 2, 1]
    assert metrics['accuracy'].value() == pytest.approx(right.mean())


def test_unlabelled_rows_do_not_change_gradients(classifier: tuple) -> None:
    batch = classification_batch()
    unlabelled = batch | {'label': jnp.array([0, 1, 2, -1])}
    some = {k: v[:3] for k, v in batch.items()}
    got, want = (evaluated('classification', *classifier, b) for b in (unlabelled, some))
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    assert_trees_close(got[1], want[1], **CLOSE)


# The loss of a model that knows nothing, where it is not a choice of 32 tokens.
CHANCE = {
    'classification': np.log(LABELS),
    'token_classification': np.log(LABELS),
    'masked_images': 1.0,  # black is −1 and white 1
    'regression': np.var([0, 1, 2, 1]),
    'extractive_qa': 2 * np.log(LENGTH - 2),
    'multiple_choice': np.log(3),
    'replaced_tokens': np.log(2),
    'dpo': np.log(2),
    'simpo': np.log(2),
    'distillation': 0.5 * np.log(32),
    'joint': np.log(LABELS) + 0.5 * np.log(32),
}
# What a task is compared with.
COMPANIONS = {
    'reference': lambda: beginning({}),
    'generator': lambda: beginning(SHAPES['masked_lm']),
    'teacher': lambda: overfitted('causal_lm', {}, {})[0].params,
}


def beginning(shape: dict[str, str]) -> Any:
    """Parameters before the first update."""
    built = small_model(LENGTH, LABELS, width=32, **shape)
    return jax.tree.map(lambda x: 0.3 * x, random_params(built))


def overfitted(
    spec: str, shape: dict[str, str], frozen: dict[str, Any]
) -> tuple[State, list[float], dict[str, Any]]:
    """The state after sixty updates on one batch, the losses, and the last metrics."""
    task = build_task(spec)
    config = small_config(LENGTH, width=32, **shape)
    config.num_steps = 60
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 0.0
    config.schedule = 'constant'
    model = small_model(LENGTH, LABELS, width=32, **shape)
    batch = batch_of(task)
    optimizer, hparams = build_optimizer(config, abstract_params(model))
    params = beginning(shape)
    state = State(jnp.int32(0), params, optimizer.init(params, hparams), frozen)
    models = companion_models(task, model, width=32)
    step = quick_jit(make_train_step(model, task, optimizer, 1, models))
    losses = []
    for _ in range(config.num_steps):
        state, metrics = step(state, batch, hparams)
        losses.append(metrics['loss'].value())
    assert_trees_close(state.companions, frozen, rtol=0, atol=0)
    return state, losses, metrics


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        *SHAPES.items(),
        ('masked_lm', {'size': 'bert-base'}),
        (DECODER_ONLY, {'mask': 'prefix'}),
        (DECODER_ONLY, {}),
        ('ul2(sentinels=4, decoder_only=True)', {'mask': 'prefix'}),
    ],
    ids=[*SHAPES, 'masked_lm-bert', 'decoder_only', 'decoder_only-causal', 'ul2-decoder_only'],
)
def test_each_task_overfits_one_batch(name: str, shape: dict[str, str]) -> None:
    """The real model, optimizer and step: sixty updates bring the loss near its floor."""
    spec = SPECS.get(name, name)
    # A reference is the model at the start; a teacher has learned the batch.
    frozen = {c: COMPANIONS[c]() for c in build_task(spec).companions}
    state, losses, metrics = overfitted(spec, shape, frozen)
    assert losses[0] > 0.8 * CHANCE.get(name, np.log(32))
    assert losses[-1] < 0.05
    right = [mean.value() for metric, mean in metrics.items() if metric.endswith('accuracy')]
    bare = name in ('regression', 'masked_images')
    assert right == ([] if bare else [1] * len(build_task(spec).heads))
    assert int(state.step) == len(losses)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('causal', "unknown task 'causal'. Did you mean 'causal_lm'"),
        ('causal_lm(zloss=1.0)', "has no argument 'zloss'. Did you mean 'z_loss'"),
        ('causal_lm(z_loss="a")', 'expected float'),
    ],
)
def test_bad_task_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(spec)
