"""A task that is two: its loss by hand, rows without a label, and one pass of the model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.models.model import Model, apply
from bigmodel.sharding import make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.training.step import gradients, make_loss_fn
from tests.small import VOCAB, assert_trees_close, quick_jit, random_params, small_model
from tests.tasks.test_tasks import LABELS, LENGTH, batch_of, compiled

# Float32 sums of four rows through two layers, in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


@pytest.fixture(scope='module')
def model() -> Model:
    return small_model(LENGTH, LABELS, head='joint')


@pytest.fixture(scope='module')
def params(model: Model) -> Any:
    return random_params(model)


def rows(**more: list) -> dict[str, jax.Array]:
    """Four rows, the second without a label and the third with padding."""
    batch = batch_of(build_task('joint')) | {'label': jnp.array([0, -1, 2, 1])}
    segments = np.ones((4, LENGTH + 1), np.int32)
    segments[2, 9:] = 0
    return batch | {'segments': jnp.asarray(segments)} | {k: jnp.array(v) for k, v in more.items()}


def test_the_loss_is_a_sum_over_rows_of_both() -> None:
    rng, batch = np.random.default_rng(0), rows(valid=[1.0, 1.0, 1.0, 0.0])
    logits_BC = rng.standard_normal((4, LABELS)).astype(np.float32)
    logits_BLV = rng.standard_normal((4, LENGTH, VOCAB)).astype(np.float32)

    def nats(logits: np.ndarray, target: int) -> float:
        return np.log(np.exp(logits.astype(np.float64)).sum()) - logits[target]

    tokens, total = np.asarray(batch['tokens']), 0.0
    for b, predicted in enumerate([12, 12, 8]):  # tokens; the fourth row does not count
        label = int(batch['label'][b])
        total += nats(logits_BC[b], label) if label >= 0 else 0.0
        total += 0.3 * sum(nats(logits_BLV[b, i], tokens[b, i + 1]) for i in range(predicted)) / 12
    task = build_task('joint(weight=0.3)')
    outputs = jnp.asarray(logits_BC), jnp.asarray(logits_BLV)
    metrics, judged = task.judge(lambda *args: outputs, batch, None)
    assert float(metrics['loss'].weight) == 3
    np.testing.assert_allclose(metrics['loss'].total, total, rtol=1e-5)
    assert float(metrics['classification_accuracy'].weight) == 2
    assert float(metrics['causal_lm_nll'].weight) == 32
    np.testing.assert_array_equal(judged['prediction'], logits_BC.argmax(-1))
    assert not any('/' in name for name in metrics)  # what follows is read as a source


def test_the_model_is_asked_once_and_for_what_both_tasks_show_it() -> None:
    asked = []

    def record(*args: Any) -> tuple[jax.Array, ...]:
        asked.append(args[:3])
        return jnp.zeros((4, LABELS)), jnp.zeros((4, LENGTH, VOCAB))

    batch, task = rows(), build_task('joint')
    task(record, batch, None)
    assert len(asked) == 1
    task.of_rows(lambda *args: record(*args)[0], task.shown(batch), None)
    task.of_tokens(lambda *args: record(*args)[1], batch, None)
    for other in asked[1:]:
        jax.tree.map(np.testing.assert_array_equal, asked[0], other)


def test_the_heads_are_what_they_are_alone(model: Model, params: Any) -> None:
    tokens = rows()['tokens'][:, :LENGTH]
    got = quick_jit(lambda p: apply(model, p, tokens))(params)
    alone = {'first': 'classifier(pool="last")', 'second': 'lm'}
    for name, output in zip(alone, got, strict=True):
        one = small_model(LENGTH, LABELS, head=alone[name])
        theirs = {k: v for k, v in params.items() if k != 'head'}
        theirs |= {'head': params['head'][name]} if name in params['head'] else {}
        want = quick_jit(functools.partial(apply, one, theirs))(tokens)
        np.testing.assert_allclose(output, want, rtol=1e-6, atol=1e-6)


def test_weight_zero_has_the_gradients_of_the_first_alone(model: Model, params: Any) -> None:
    """But for the factor: the share of rows that have a label."""
    batch = rows()
    metrics, grads = compiled('joint(weight=0.0)', model)(params, batch)
    one = small_model(LENGTH, LABELS, head='classifier(pool="last")')
    theirs = params | {'head': params['head']['first']}
    cut = build_task('joint').shown(batch)
    want, grads_alone = compiled('classification', one)(theirs, cut)
    grads = grads | {'head': grads['head']['first']}
    assert_trees_close(grads, jax.tree.map(lambda g: 0.75 * g, grads_alone), **CLOSE)
    np.testing.assert_allclose(metrics['loss'].value(), 0.75 * want['loss'].value(), rtol=1e-5)


def test_rows_without_a_label_count_for_the_second_alone(model: Model, params: Any) -> None:
    """And their gradients are those of causal_lm, but for the padding that it does not count."""
    batch, run = rows(label=[-1] * 4), compiled('joint(weight=1.0)', model)
    metrics, grads = run(params, batch)
    lm = small_model(LENGTH, head='lm')
    want, grads_alone = compiled('causal_lm', lm)(
        {k: v for k, v in params.items() if k != 'head'}, batch
    )
    assert not any(np.any(g) for g in jax.tree.leaves(grads.pop('head')))
    share = 44 / 48  # of the tokens that the rows have room for
    assert_trees_close(grads, jax.tree.map(lambda g: share * g, grads_alone), **CLOSE)
    np.testing.assert_allclose(metrics['loss'].value(), share * want['loss'].value(), rtol=1e-5)


@pytest.mark.parametrize('accumulate', [2, 4])
def test_accumulation_and_devices_change_nothing(
    model: Model, params: Any, accumulate: int
) -> None:
    """However the rows with labels are spread over microbatches and devices."""
    loss_fn, batch = make_loss_fn(model, build_task('joint')), rows()

    def run(n: int, batch: Any) -> Any:
        grad = quick_jit(lambda p, b: gradients(loss_fn, p, b, None, n))
        return grad(params, batch)

    want, metrics = run(1, batch)
    got, summed = run(accumulate, batch)
    assert_trees_close(got, want, **CLOSE)
    for name, mean in metrics.items():
        np.testing.assert_allclose(summed[name].value(), mean.value(), rtol=1e-5)
    sharding = make_sharding('data=4', 'dp', jax.devices()[:4])
    with sharding.active():
        placed = {k: jax.device_put(v, sharding.batch(v.shape)) for k, v in batch.items()}
        spread, _ = run(1, placed)
    assert_trees_close(spread, want, **CLOSE)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('joint(second="masked_lm")', "'masked_lm' is none of causal_lm, which read the same rows"),
        ('joint(first="clasification")', "Did you mean 'classification'"),
        ('joint(first="classification(shift=2)")', 'does not read tokens, which causal_lm'),
        ('joint(second="causal_lm(zloss=1.0)")', "has no argument 'zloss'"),
        ('joint(weight=-1.0)', 'must be at least 0'),
    ],
)
def test_tasks_that_do_not_go_together_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(spec)


def test_the_metrics_of_text_are_of_the_second_head(model: Model, params: Any) -> None:
    """What evaluations and `extrapolate` read."""
    task, batch = build_task('joint'), rows()
    output = apply(model, params, *(task.shown(batch)[k] for k in ('tokens', 'positions')))
    each = task.by_token(lambda *args: output, batch, None)
    metrics = task(lambda *args: output, batch, None)
    assert metrics[task.text_nll].value() == pytest.approx(each.metrics()['nll'].value())
