"""The training step: accumulation is exact, dropout follows the step, metrics are sums."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.metrics import Mean
from bigmodel.models.model import Model
from bigmodel.tasks.build import build_task
from bigmodel.training.optimizers import HParams, build_optimizer
from bigmodel.training.state import State, abstract_params, init_state
from bigmodel.training.step import gradients, make_eval_step, make_loss_fn, make_train_step
from tests.small import (
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

LENGTH, ROWS = 12, 8
# Sums over 96 tokens through two float32 layers, in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-6}


def lm_batch(seed: int = 0) -> dict[str, jax.Array]:
    """Rows with 13 to 1 tokens, so that microbatches have unequal weights."""
    tokens = random_tokens(ROWS, LENGTH + 1, seed)
    lengths = np.array([13, 2, 13, 5, 1, 13, 3, 8])
    segments = (slots(ROWS, LENGTH + 1) < lengths[:, None]).astype(np.int32)
    batch = {'tokens': tokens, 'positions': slots(ROWS, LENGTH + 1), 'segments': segments}
    return {k: jnp.asarray(v) for k, v in batch.items()}


def started(**model: Any) -> tuple[Model, Any, State, HParams]:
    """(model, optimizer, state, hyperparameters) of a small run with AdamW."""
    config = small_config(LENGTH, **model)
    config.schedule = 'constant'
    built = small_model(LENGTH, **model)
    optimizer, hparams = build_optimizer(config, abstract_params(built))
    params = random_params(built)
    return built, optimizer, State(jnp.int32(0), params, optimizer.init(params, hparams)), hparams


@pytest.fixture(scope='module')
def lm() -> tuple:
    return started()


@pytest.fixture(scope='module')
def whole(lm: tuple) -> tuple:
    """Gradients and metrics of the batch at once."""
    loss_fn = make_loss_fn(lm[0], build_task('causal_lm(z_loss=0.01)'))
    return quick_jit(lambda p, b: gradients(loss_fn, p, b, None, 1))(lm[2].params, lm_batch())


@pytest.mark.parametrize('accumulate', [2, 4, 8])
def test_accumulated_gradients_and_metrics_are_the_whole_batchs(
    lm: tuple, whole: tuple, accumulate: int
) -> None:
    loss_fn = make_loss_fn(lm[0], build_task('causal_lm(z_loss=0.01)'))
    run = quick_jit(lambda p, b: gradients(loss_fn, p, b, None, accumulate))
    grads, metrics = run(lm[2].params, lm_batch())
    assert_trees_close(grads, whole[0], **CLOSE)
    for key, mean in metrics.items():
        assert float(mean.weight) == float(whole[1][key].weight)
        assert mean.value() == pytest.approx(whole[1][key].value(), rel=1e-5)


def test_microbatches_have_unequal_weights() -> None:
    """The test above can fail: a mean of means would be another loss."""
    counted = np.asarray(lm_batch()['segments'])[:, 1:].sum(1)
    assert len({counted[i::4].sum() for i in range(4)}) > 1


def test_gradients_are_of_the_mean_loss(lm: tuple, whole: tuple) -> None:
    model, _, state, _ = lm
    loss_fn = make_loss_fn(model, build_task('causal_lm(z_loss=0.01)'))

    def mean(params: Any) -> jax.Array:
        total, metrics = loss_fn(params, lm_batch(), None)
        return total / metrics['loss'].weight

    assert_trees_close(quick_jit(jax.grad(mean))(state.params), whole[0], **CLOSE)


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_batch_of_padding_alone_changes_nothing_but_the_step(lm: tuple, accumulate: int) -> None:
    """Neither decay nor momentum, which a step before has built up; half of one is learned from."""
    model, optimizer, state, hparams = lm
    step = quick_jit(make_train_step(model, build_task('causal_lm'), optimizer, accumulate))
    before, _ = step(state, lm_batch(), hparams)
    batch = lm_batch()
    here = batch.pop('segments')
    after, metrics = step(before, batch | {'segments': 0 * here}, hparams)
    assert int(after.step) == int(before.step) + 1 and float(metrics['loss'].weight) == 0
    for kept, old in ((after.params, before.params), (after.opt_state, before.opt_state)):
        jax.tree.map(np.testing.assert_array_equal, kept, old)
    some, _ = step(before, batch | {'segments': here.at[::2].set(0)}, hparams)
    for leaf, old in zip(*(jax.tree.leaves(s.params) for s in (some, before)), strict=True):
        assert np.any(leaf != old)


def test_a_step_counts_and_reports_norm_and_rate(lm: tuple, whole: tuple) -> None:
    model, optimizer, state, hparams = lm
    task = build_task('causal_lm(z_loss=0.01)')
    new, metrics = quick_jit(make_train_step(model, task, optimizer, 1))(state, lm_batch(), hparams)
    assert int(new.step) == 1
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(whole[0])))
    assert metrics['grad_norm'].value() == pytest.approx(norm, rel=1e-4)
    assert metrics['learning_rate'].value() == pytest.approx(1e-3)
    assert all(isinstance(m, Mean) for m in metrics.values())
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_the_loss_has_what_layers_add_and_not_what_they_report() -> None:
    model = small_model(LENGTH, ffn='switch(experts=4, capacity=0.5, router_z=0.1)')
    loss_fn = make_loss_fn(model, build_task('causal_lm'))
    run = quick_jit(lambda p, b: loss_fn(p, b, None)[1])
    metrics = {k: m.value() for k, m in run(random_params(model), lm_batch()).items()}
    assert metrics['balance'] > 0 and metrics['router_z'] > 0 and 0.3 < metrics['dropped'] < 1
    added = metrics['balance'] + metrics['router_z']
    assert metrics['loss'] == pytest.approx(metrics['nll'] + added, rel=1e-5)


def test_the_step_moves_parameters_as_the_optimizer_says(lm: tuple, whole: tuple) -> None:
    model, optimizer, state, hparams = lm
    task = build_task('causal_lm(z_loss=0.01)')
    new, _ = quick_jit(make_train_step(model, task, optimizer, 2))(state, lm_batch(), hparams)
    update = quick_jit(optimizer.update)
    want, _ = update(whole[0], state.opt_state, state.params, state.step, hparams)
    # Adam divides by the gradient's size: tiny gradients amplify their rounding, up to one rate.
    assert_trees_close(new.params, want, rtol=1e-4, atol=1e-4)


class Dropped:
    """One compiled step of a model with dropout, for several states and seeds."""

    def __init__(self) -> None:
        self.model, self.optimizer, self.state, self.hparams = started(dropout=0.3)
        task = build_task('causal_lm')
        self.steps = {
            n: quick_jit(make_train_step(self.model, task, self.optimizer, n)) for n in (1, 2)
        }

    def loss(self, step: int = 0, seed: int = 0, accumulate: int = 1, batch: Any = None) -> float:
        state = self.state.replace(step=jnp.int32(step))
        hparams = self.hparams | {'seed': jnp.uint32(seed)}
        batch = lm_batch() if batch is None else batch
        return self.steps[accumulate](state, batch, hparams)[1]['loss'].value()


@pytest.fixture(scope='module')
def dropped() -> Dropped:
    return Dropped()


def test_dropout_follows_seed_and_step_alone(dropped: Dropped) -> None:
    assert dropped.loss(3, 5) == dropped.loss(3, 5)
    assert len({dropped.loss(step, seed) for step in (0, 1, 2) for seed in (0, 1)}) == 6


def test_each_microbatch_drops_out_otherwise(dropped: Dropped) -> None:
    """The same row in both microbatches: with one key both would have the same loss."""
    row = {k: v[:1] for k, v in lm_batch().items()}
    twice = {k: jnp.concatenate([v, v]) for k, v in row.items()}
    alone = dropped.loss(
        batch={k: jnp.concatenate([v, 0 * v]) for k, v in row.items()}, accumulate=2
    )
    assert dropped.loss(batch=twice, accumulate=2) != pytest.approx(alone, abs=1e-4)


def test_evaluation_never_drops_out(dropped: Dropped, lm: tuple) -> None:
    task = build_task('causal_lm')
    got, want = (
        quick_jit(make_eval_step(m, task))(lm[2].params, lm_batch())['loss'].value()
        for m in (dropped.model, lm[0])
    )
    assert got == want


def test_the_initial_state_is_a_function_of_the_seed(lm: tuple) -> None:
    model, optimizer, _, hparams = lm
    init = quick_jit(lambda h: init_state(model, optimizer, h))
    one, again, other = (init(hparams | {'seed': jnp.uint32(s)}) for s in (1, 1, 2))
    assert int(one.step) == 0
    jax.tree.map(np.testing.assert_array_equal, one, again)
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


def test_the_step_is_pure_and_compiled_once_for_all_numbers(lm: tuple) -> None:
    model, optimizer, state, hparams = lm
    step = quick_jit(make_train_step(model, build_task('causal_lm'), optimizer, 1))
    first = step(state, lm_batch(), hparams)
    again = step(state, lm_batch(), hparams)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for key in ('seed', 'num_steps', 'learning_rate', 'weight_decay', 'clip_norm'):
        step(first[0], lm_batch(1), hparams | {key: hparams[key] + hparams[key].dtype.type(1)})
    step(state, lm_batch(), jax.tree.map(lambda x: x / 2 if x.dtype == jnp.float32 else x, hparams))
    assert step._cache_size() == 1
