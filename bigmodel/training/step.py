"""The training step: (state, batch, hparams) -> (state, metrics). Pure; one builder for all."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.metrics import Mean, Metrics, add
from bigmodel.models.heads import Outputs
from bigmodel.models.model import Model, apply, apply_with_losses
from bigmodel.sharding import constrain
from bigmodel.tasks.task import Batch, BoundModel, Judged, ModelFn, Objective
from bigmodel.training.optimizers import HParams, Optimizer
from bigmodel.training.state import State, place_gradients

# (params, batch, dropout_key, companions={}) -> (total loss, metrics)
LossFn = Callable[..., tuple[jax.Array, Metrics]]
JudgeFn = Callable[..., tuple[Metrics, Judged]]
Models = Mapping[str, Model]
EMPTY: Mapping[str, Any] = MappingProxyType({})
TrainStep = Callable[[State, Batch, HParams], tuple[State, Metrics]]


def make_train_step(
    model: Model, task: Objective, optimizer: Optimizer, accumulate: int, companions: Models = EMPTY
) -> TrainStep:
    """Builds the step; `accumulate` microbatches are summed before the one update.

    A batch with nothing to predict (a loss of weight 0) leaves all but the step's number as it was,
    and so does one with a gradient that overflows where the loss is scaled (`loss_scale.py`).
    """
    loss_of = make_loss_fn(model, task, companions)

    def train_step(state: State, batch: Batch, hparams: HParams) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(hparams['seed']), state.step)

        def loss_fn(part: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
            params = optimizer.selection.whole(state.params, part)
            return loss_of(params, batch, key, state.companions)

        # Of the trained part alone: frozen parameters have no gradient to keep or to sum.
        part = optimizer.selection.part(state.params)
        place = partial(place_gradients, model)
        scaling = optimizer.scaling
        grad = partial(scaling.grad, state=state.loss_scale)
        grads, metrics = gradients(loss_fn, part, batch, key, accumulate, place, grad)
        finite = scaling.finite(grads)
        # Where nothing was to be predicted there is nothing to learn: no decay, no momentum either.
        learns = (metrics['loss'].weight > 0) & finite
        held = optimizer.storage.fetch(state.opt_state)
        params, opt_state = optimizer.update(grads, held, state.params, state.step, hparams, learns)
        opt_state = optimizer.storage.stow(opt_state)
        loss_scale, told = scaling.after(state.loss_scale, finite)
        norm = jnp.where(finite, optimizer.norm(grads), 0)
        metrics |= told | {'grad_norm': Mean(norm, finite.astype(jnp.float32))}
        metrics['learning_rate'] = Mean(
            optimizer.learning_rate(state.step, hparams), jnp.float32(1)
        )
        new = {'params': params, 'opt_state': opt_state, 'loss_scale': loss_scale}
        return state.replace(step=state.step + 1, **new), metrics

    return train_step


def make_eval_step(
    model: Model, task: Objective, companions: Models = EMPTY
) -> Callable[..., Metrics]:
    """Builds (params, batch, companions={}) -> metrics, without dropout."""
    judge = make_judge(model, task, companions)
    return lambda params, batch, companions=EMPTY: judge(params, batch, None, companions)[0]


def make_loss_fn(model: Model, task: Objective, models: Models = EMPTY) -> LossFn:
    """The task's loss as a sum (not yet divided by its weight), with all metrics.

    What layers add to the loss counts as often as what the task does, so it is a mean too; so is
    what they report. `models` are the companions, whose parameters the loss is given by name.
    """

    judge = make_judge(model, task, models)

    def loss_fn(*args: Any, **kwargs: Any) -> tuple[jax.Array, Metrics]:
        metrics, _ = judge(*args, **kwargs)
        return metrics['loss'].total, metrics

    return loss_fn


def make_judge(model: Model, task: Objective, models: Models = EMPTY) -> JudgeFn:
    """(params, batch, dropout_key, companions={}) -> all metrics, and predictions by row."""

    def judge(
        params: Any, batch: Batch, dropout_key: jax.Array | None, companions: Any = EMPTY
    ) -> tuple[Metrics, Judged]:
        added: dict[str, jax.Array] = {}
        reported: dict[str, jax.Array] = {}

        def bound(*args: Any, **kwargs: Any) -> Outputs:
            outputs, losses, reports = apply_with_losses(model, params, *args, **kwargs)
            added.update({k: added.get(k, 0) + v for k, v in losses.items()})
            reported.update(reports)
            return outputs

        frozen = {name: _frozen(m, companions[name]) for name, m in models.items()}
        metrics, rows = task.judge(BoundModel(bound, frozen), batch, dropout_key)
        weight = metrics['loss'].weight
        metrics |= {k: Mean(v * weight, weight) for k, v in (added | reported).items()}
        for name in added:
            metrics['loss'] = Mean(metrics['loss'].total + metrics[name].total, weight)
        return metrics, rows

    return judge


def _frozen(model: Model, params: Any) -> ModelFn:
    """A companion with its parameters bound, through which no gradient flows."""

    def bound(*args: Any, **kwargs: Any) -> Outputs:
        return jax.lax.stop_gradient(apply(model, params, *args, **kwargs))

    return bound


def gradients(
    loss_fn: LossFn,
    params: Any,
    batch: Batch,
    key: jax.Array | None,
    accumulate: int,
    place: Callable[[Any], Any] = lambda grads: grads,
    grad: Callable[..., Any] = lambda f: jax.grad(f, has_aux=True),
) -> tuple[Any, Metrics]:
    """The gradient of the batch's mean loss, exact for any padding and accumulation.

    `place` splits the gradients of each microbatch over devices; `grad` makes their function.
    """

    def grad_fn(*args: Any) -> tuple[Any, Metrics]:
        grads, metrics = grad(loss_fn)(*args)
        return place(grads), metrics

    if accumulate == 1:
        grads, metrics = grad_fn(params, batch, key)
    else:
        grads, metrics = _accumulated(grad_fn, params, batch, key, accumulate)
    weight = jnp.maximum(metrics['loss'].weight, 1e-8)
    return jax.tree.map(lambda g: g.astype(jnp.float32) / weight, grads), metrics


def _accumulated(
    grad_fn: Callable, params: Any, batch: Batch, key: jax.Array | None, accumulate: int
) -> tuple[Any, Metrics]:
    micro = {name: _microbatches(x, accumulate) for name, x in batch.items()}

    def body(total: Any, xs: tuple[jax.Array, Mapping[str, jax.Array]]) -> tuple[Any, None]:
        index, rows = xs
        here = None if key is None else jax.random.fold_in(key, index)
        grads, metrics = grad_fn(params, rows, here)
        grads = jax.tree.map(jnp.add, total[0], grads)
        return (grads, add(total[1], metrics)), None

    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(grad_fn, params, first, key)
    # Sums of gradients of bfloat16 parameters would lose what a microbatch adds.
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, _of_sums(s.dtype)), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(accumulate), micro))
    return total


def _of_sums(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.bfloat16 else dtype


def _microbatches(x: jax.Array, n: int) -> jax.Array:
    """(B, …) -> (n, B/n, …), interleaved so that each device keeps its own rows."""
    split = x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)
    return constrain(split, None, 'batch', *[None] * (x.ndim - 1))
