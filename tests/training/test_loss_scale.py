"""Loss scaling: PyTorch's rule, gradients that no bit of is changed, steps that are skipped."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.metrics import Mean
from bigmodel.params import flatten
from bigmodel.tasks.build import build_task
from bigmodel.training.gang import AXES
from bigmodel.training.loss_scale import Dynamic, Fixed, build_loss_scale, check_scale
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.outline import resolve
from bigmodel.training.state import State, abstract_params
from bigmodel.training.step import gradients, make_loss_fn, make_train_step
from experiments import defaults
from tests.small import (
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    small_config,
    small_model,
)

LENGTH = 8


def grad_scaler(finite: list[bool], scale: float, interval: int) -> list[float]:
    """The scale of each step by torch.amp.GradScaler's rule ("update" of its documentation, and
    `_amp_update_scale_`): backoff_factor 0.5, growth_factor 2, growth_interval `interval`.
    """
    scales, successes = [], 0
    for good in finite:
        scales.append(scale)
        if not good:
            scale, successes = scale * 0.5, 0
        elif successes + 1 == interval:
            scale, successes = (scale * 2 if scale * 2 <= 3.4e38 else scale), 0
        else:
            successes += 1
    return scales


@pytest.mark.parametrize(('initial', 'interval'), [(65536.0, 3), (2.0**126, 1), (1.0, 1)])
def test_the_scale_follows_pytorchs_rule(initial: float, interval: int) -> None:
    finite = np.random.default_rng(0).random(60) < 0.8
    scaling = Dynamic(initial, interval)
    after, state, scales = jax.jit(scaling.after), scaling.init(), []
    for good in finite:
        state, told = after(state, good)
        scales.append(told['loss_scale'].value())
    assert scales == grad_scaler(finite.tolist(), initial, interval)
    assert int(state['skipped_steps']) == told['skipped_steps'].value() == (~finite).sum() > 5


def batch(seed: int = 0, rows: int = 4) -> dict[str, Any]:
    tokens = random_tokens(rows, LENGTH + 1, seed)
    # Unequal rows: microbatches have unequal weights, none of which is a power of two.
    segments = (np.arange(LENGTH + 1) < np.array([[9], [4], [7], [3]])).astype(np.int32)
    positions = np.tile(np.arange(LENGTH + 1, dtype=np.int32), (rows, 1))
    made = {'tokens': tokens, 'positions': positions, 'segments': segments}
    return {name: jnp.asarray(x) for name, x in made.items()}


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_float32_gradient_is_that_of_any_scale_bitwise_and_the_unscaled_one(
    accumulate: int,
) -> None:
    """The unscaled one is of another program, which rounds otherwise."""
    model = small_model(LENGTH)
    loss_fn, params = make_loss_fn(model, build_task('causal_lm')), random_params(model)
    run = partial(gradients, loss_fn, key=None, accumulate=accumulate)
    want, _ = quick_jit(lambda p, b: run(p, b))(params, batch())

    def scaled(p: Any, b: Any, scale: jax.Array) -> Any:
        return run(p, b, grad=partial(Dynamic().grad, state={'scale': scale}))

    at = quick_jit(scaled)
    one, _ = at(params, batch(), jnp.float32(1))
    large, metrics = at(params, batch(), jnp.float32(2.0**20))
    jax.tree.map(np.testing.assert_array_equal, one, large)
    assert_trees_close(large, want, rtol=1e-5, atol=1e-6)
    assert metrics['loss'].weight == 19


def test_a_step_that_overflows_changes_nothing_but_the_scale_and_is_no_divergence() -> None:
    """Two runs in one program, of which the first one's gradients overflow."""
    config = small_config(LENGTH, dtype='float16')
    config.schedule, config.optimizer.loss_scale = 'constant', 'dynamic(growth_interval=1)'
    model = small_model(LENGTH, dtype='float16')
    optimizer, hparams = build_optimizer(config, abstract_params(model))
    step = make_train_step(model, build_task('causal_lm'), optimizer, 1)
    params = random_params(model)
    opt_state, scale = optimizer.init(params, hparams), optimizer.scaling.init()
    one = State(jnp.int32(0), params, opt_state, loss_scale=scale)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), one.replace(companions=None))
    scales = jnp.float32([1e30, 256])
    both = both.replace(loss_scale=both.loss_scale | {'scale': scales}, companions={})
    run = quick_jit(jax.vmap(step, in_axes=(AXES, None, None), out_axes=(AXES, 0)))
    after, metrics = run(both, batch(), hparams)
    for new, old in ((after.params, both.params), (after.opt_state, both.opt_state)):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[0]), new, old)
    moved = jax.tree.map(lambda x, y: bool((x[1] != y[1]).any()), after.params, both.params)
    assert all(jax.tree.leaves(moved))
    assert np.isfinite(metrics['loss'].total).all() and after.step.tolist() == [1, 1]
    np.testing.assert_array_equal(after.loss_scale['scale'], scales * jnp.float32([0.5, 2]))
    np.testing.assert_array_equal(metrics['loss_scale'].total, scales)
    assert metrics['skipped_steps'].total.tolist() == [1, 0]
    assert metrics['grad_norm'].weight.tolist() == [0, 1]  # nothing to log of the first


def test_small_gradients_are_kept_that_float16_alone_loses() -> None:
    """Of a loss times 1e-6 most underflow."""
    params = random_params(small_model(LENGTH))
    task = build_task('causal_lm')

    def grads_of(dtype: str, scaling: Any) -> dict[str, np.ndarray]:
        loss_fn = make_loss_fn(small_model(LENGTH, dtype=dtype), task)

        def small(*args: Any) -> Any:
            total, metrics = loss_fn(*args)
            return total * 1e-6, metrics

        grad = partial(scaling.grad, state=scaling.init())
        run = quick_jit(lambda p: gradients(small, p, batch(), None, 1, grad=grad)[0])
        return {k: np.asarray(v, np.float64) for k, v in flatten(run(params)).items()}

    want = grads_of('float32', Fixed(1.0))
    plain, scaled = (grads_of('float16', Fixed(scale)) for scale in (1.0, 2.0**20))
    path = 'backbone/layers/block_0/mixer/q/weight'
    error = [
        np.linalg.norm(g[path] - want[path]) / np.linalg.norm(want[path]) for g in (plain, scaled)
    ]
    # Of sums of a dozen products with 11 bits each.
    assert error[1] < 5e-3 and error[0] > 10 * error[1], error


def test_auto_is_dynamic_for_float16_alone() -> None:
    config = defaults.get_config()
    assert resolve(config).optimizer.loss_scale == 'none'
    config.model.dtype = 'float16'
    assert resolve(resolve(config)).optimizer.loss_scale == 'dynamic'
    assert build_loss_scale(config) == Dynamic(65536.0, 2000, 2.0)
    config.optimizer.loss_scale = 'dynamic(factor=1)'
    with pytest.raises(UserError, match='must be above 1, got 1'):
        build_loss_scale(config)


def test_a_scale_that_fell_to_nothing_stops_the_run() -> None:
    with pytest.raises(UserError, match=r'not finite at any loss scale: it is 1e-09 at step 7'):
        check_scale(7, told(loss_scale=1e-9, skipped_steps=3))


def test_a_run_of_which_most_steps_are_skipped_stops() -> None:
    check_scale(100, told(loss_scale=1e30, skipped_steps=50))
    with pytest.raises(UserError, match=r'51 of 100 steps had gradients that are not finite'):
        check_scale(100, told(loss_scale=1e30, skipped_steps=51))


@pytest.mark.parametrize('spec', ['fixed(scale=1e-50)', 'dynamic(initial=1e39)'])
def test_scales_that_float32_does_not_have_are_refused(spec: str) -> None:
    config = defaults.get_config()
    config.optimizer.loss_scale = spec
    with pytest.raises(UserError, match=r'must be from 2\*\*-24 to 2\*\*126'):
        build_loss_scale(config)


def told(**values: float) -> dict[str, Mean]:
    return {name: Mean(jnp.float32(value), jnp.float32(1)) for name, value in values.items()}
