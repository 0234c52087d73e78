"""What is kept in bfloat16 or on the host: rounding in the mean, dtypes, places, donation."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models.build import build_model
from bigmodel.models.model import apply
from bigmodel.models.remat import HOST
from bigmodel.sharding import make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.training.averages import with_average
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import State, abstract_params, abstract_state, state_sharding
from bigmodel.training.step import gradients, make_loss_fn, make_train_step
from bigmodel.training.storage import check_host_memory, is_moment, nearest, stochastic
from tests.small import (
    quick_jit,
    random_params,
    random_tokens,
    small_config,
    small_model,
    unboxed_shapes,
)

BOTH = {'param_dtype': 'bfloat16', 'state_dtype': 'bfloat16'}


def configured(name: str = 'adamw', param_dtype: str = 'float32', **optimizer: Any) -> Any:
    config = small_config(param_dtype=param_dtype)
    config.schedule, config.optimizer.name = 'constant', name
    config.optimizer.update(optimizer)
    return config


def built(config: Any) -> tuple[Any, Any, Any]:
    """The optimizer, its hyperparameters and the abstract parameters of a small model."""
    boxed = abstract_params(build_model(config.model, 32, 0, 'cpu'))
    return *with_average(config, *build_optimizer(config, boxed)), boxed


def as_kept(config: Any) -> Any:
    """Random parameters as the model keeps them."""
    model = build_model(config.model, 32, 0, 'cpu')
    shapes = jax.tree.map(
        lambda box: box.value, abstract_params(model), is_leaf=lambda x: hasattr(x, 'names')
    )
    drawn = random_params(small_model())
    return jax.tree.map(lambda x, s: x.astype(s.dtype), drawn, shapes)


def kept(config: Any) -> State:
    """The shapes of a state."""
    optimizer, hparams, boxed = built(config)
    return abstract_state(boxed, optimizer, hparams)


def test_stochastic_rounding_is_to_a_neighbour_and_exact_in_the_mean() -> None:
    draws = 20_000
    x = jnp.float32([1 + 1 / 512, -3.001, 1e-30, 0.1, 257.9])
    many = stochastic(jax.random.key(0), jnp.broadcast_to(x, (draws, 5)))
    assert many.dtype == jnp.bfloat16
    below = jax.lax.reduce_precision(x, 8, 7)
    gap = 2.0 ** (jnp.floor(jnp.log2(jnp.abs(x))) - 7)
    errors = jnp.abs(many.astype(jnp.float32) - x)
    assert bool((errors <= gap).all()) and len(np.unique(np.asarray(many[:, 0]))) == 2
    mean = many.astype(jnp.float32).mean(0)
    # A draw's deviation is at most half a gap; five of those of the mean.
    np.testing.assert_array_less(np.abs(mean - x), 5 * gap / 2 / math.sqrt(draws))
    assert bool((jnp.abs(below - x) <= gap / 2).all())


def test_numbers_that_bfloat16_has_stay_and_so_do_infinities() -> None:
    x = jnp.float32([0.0, -0.0, 1.0, -1.5, 2.0**100, jnp.inf, -jnp.inf, jnp.nan])
    for how in (stochastic, nearest):
        got = how(jax.random.key(1), x).astype(jnp.float32)
        np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_states_have_the_dtypes_that_the_config_says(name: str) -> None:
    """Matrices of the model and all moments; counts and vectors of the model stay."""
    plain, lean = kept(configured(name)), kept(configured(name, **BOTH))
    assert jax.tree.structure(plain) == jax.tree.structure(lean)
    for path, x in params_lib.flatten(lean.params).items():
        assert x.dtype == (jnp.bfloat16 if x.ndim > 2 or path.endswith('table') else jnp.float32)
    for path, x in params_lib.flatten(lean.opt_state).items():
        was = params_lib.flatten(plain.opt_state)[path]
        assert x.shape == was.shape
        assert x.dtype == (jnp.bfloat16 if is_moment(was) else was.dtype), path
    assert any(is_moment(x) for x in jax.tree.leaves(lean.opt_state))


def test_an_average_and_exact_copies_are_float32() -> None:
    state = kept(configured(**BOTH, master=True, ema=0.9)).opt_state
    assert {x.dtype for x in jax.tree.leaves(state['average'])} == {jnp.dtype('float32')}
    exact = params_lib.flatten(state['optimizer']['master'])
    assert all(x.dtype == jnp.float32 for x in exact.values())
    assert all(path.endswith(('weight', 'table')) for path in exact)


def test_updates_are_those_of_float32_but_for_the_rounding() -> None:
    """After three steps: exact copies are what float32 gives, the rest is near it."""
    found = {}
    for key, config in {
        'plain': configured(),
        'master': configured(param_dtype='bfloat16', master=True),
        'lean': configured(**BOTH),
    }.items():
        optimizer, hparams, _ = built(config)
        start = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), as_kept(config))
        params, state = start, optimizer.init(start, hparams)
        update = quick_jit(optimizer.update)
        for t in range(3):
            grads = random_params(small_model(), 10 + t)
            params, state = update(grads, state, params, jnp.int32(t), hparams)
        found[key] = params_lib.flatten(params)
        if key == 'master':
            exact = params_lib.flatten(state['master'])
            for path, x in exact.items():
                np.testing.assert_allclose(x, found['plain'][path], rtol=1e-6, atol=1e-7)
                np.testing.assert_array_equal(found['master'][path], x.astype(jnp.bfloat16))
    for path, x in found['lean'].items():
        # Three roundings of the parameter and of the moments, of at most 1/128 each.
        np.testing.assert_allclose(
            x.astype(jnp.float32), found['plain'][path], rtol=3 / 128, atol=3e-4, err_msg=path
        )


@pytest.mark.parametrize(
    ('storage', 'moves'),
    [({'rounding': 'nearest'}, 0.0), ({'rounding': 'stochastic'}, 1.0), ({'master': True}, 1.0)],
    ids=['nearest', 'stochastic', 'master'],
)
def test_small_updates_are_lost_by_nearest_rounding_alone(storage: dict, moves: float) -> None:
    """200 steps of 1e-4 down from 1, where bfloat16 has numbers 2⁻⁸ apart."""
    config = configured('sgd(momentum=0.0)', param_dtype='bfloat16', **storage)
    config.optimizer.update({'learning_rate': 1e-4, 'clip_norm': 0.0, 'weight_decay': 0.0})
    optimizer, hparams, _ = built(config)
    ones = jax.tree.map(jnp.ones_like, as_kept(config))
    grads = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), ones)

    def body(t: Any, carry: Any) -> Any:
        return optimizer.update(grads, carry[1], carry[0], t, hparams)

    params, _ = quick_jit(lambda c: jax.lax.fori_loop(0, 200, body, c))(
        (ones, optimizer.init(ones, hparams))
    )
    moved = 1 - np.mean(params['inputs']['tokens']['table'].astype(jnp.float32))
    # 512 numbers, each a sum of 200 roundings.
    assert moved == pytest.approx(0.02 * moves, abs=2e-3)


@pytest.mark.parametrize('rules', ['zero1', 'fsdp'])
def test_moments_on_the_host_are_split_as_before(rules: str) -> None:
    sharding, specs = make_sharding('data=2,fsdp=4', rules), []
    for offload in (False, True):
        optimizer, hparams, boxed = built(configured(**BOTH, offload=offload))
        shapes = abstract_state(boxed, optimizer, hparams)
        places = state_sharding(sharding, boxed, shapes, optimizer.storage)
        specs.append(jax.tree.map(lambda p: p.spec, places))
        assert all(p.memory_kind != HOST for p in jax.tree.leaves(places.params))
        leaves = map(jax.tree.leaves, (places.opt_state, shapes.opt_state))
        for place, x in zip(*leaves, strict=True):
            assert (place.memory_kind == HOST) == (offload and is_moment(x))
    assert specs[0] == specs[1]
    assert any(any(spec) for spec in jax.tree.leaves(specs[1].opt_state))


def test_a_step_with_moments_on_the_host_gives_the_same_numbers_in_the_old_ones_place() -> None:
    sharding, stepped = make_sharding('fsdp=8', 'fsdp'), []
    batch = {'tokens': jnp.asarray(random_tokens(8, 13))}
    for offload in (False, True):
        config = configured('sgd', **BOTH, rounding='nearest', offload=offload)
        optimizer, hparams, boxed = built(config)
        shapes = abstract_state(boxed, optimizer, hparams)
        places = state_sharding(sharding, boxed, shapes, optimizer.storage)
        params = as_kept(config)
        state = State(jnp.int32(0), params, optimizer.init(params, hparams))
        model = build_model(config.model, 32, 0, 'cpu')
        step = make_train_step(model, build_task('causal_lm'), optimizer, 1)
        with sharding.active():
            jitted = quick_jit(step, donate_argnums=0, out_shardings=(places, None))
            placed = jax.device_put(state, places)
            compiled = jitted.lower(placed, batch, hparams).compile()
            stepped.append(compiled(placed, batch, hparams)[0])
        moments = [x for x in jax.tree.leaves(stepped[-1].opt_state) if is_moment(x)]
        assert {x.sharding.memory_kind for x in moments} == {HOST if offload else 'device'}
        held = sum(
            math.prod(p.shard_shape(x.shape)) * x.dtype.itemsize
            for p, x in zip(*map(jax.tree.leaves, (places, shapes)), strict=True)
        )
        assert compiled.memory_analysis().alias_size_in_bytes == held
    for got, want in zip(*map(jax.tree.leaves, stepped), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('accumulate', [1, 2])
def test_gradients_of_bfloat16_parameters_are_summed_in_float32(accumulate: int) -> None:
    config = configured(param_dtype='bfloat16')
    model, params = build_model(config.model, 32, 0, 'cpu'), as_kept(config)
    loss, batch = make_loss_fn(model, build_task('causal_lm')), {'tokens': random_tokens(8, 13)}
    traced = jax.make_jaxpr(lambda p, b: gradients(loss, p, b, None, accumulate)[0])(params, batch)
    assert {x.dtype for x in traced.out_avals} == {jnp.dtype('float32')}
    sums = [e for e in traced.eqns if e.primitive.name == 'scan' and e.params['length'] == 2]
    carried = [x.aval.dtype for e in sums for x in e.outvars[: e.params['num_carry']]]
    assert accumulate == 1 or (len(carried) >= len(jax.tree.leaves(params)))
    assert accumulate == 1 or jnp.bfloat16 not in carried


@dataclasses.dataclass(frozen=True)
class Memory:
    kind: str


@pytest.mark.parametrize(
    ('model', 'optimizer', 'says'),
    [
        ({}, {'state_dtype': 'float16'}, "unknown optimizer.state_dtype 'float16'"),
        ({}, {'rounding': 'up'}, "unknown optimizer.rounding 'up'"),
        ({}, {'master': True}, 'set model.param_dtype=bfloat16'),
        ({'param_dtype': 'float8'}, {}, "unknown model.param_dtype 'float8'"),
    ],
)
def test_what_cannot_be_kept_is_refused(model: dict, optimizer: dict, says: str) -> None:
    config = configured(**model, **optimizer) if 'param_dtype' not in model else small_config()
    config.model.update(model)
    with pytest.raises(UserError, match=says):
        built(config)


@pytest.mark.parametrize(
    ('key', 'change'), [('optimizer.offload', {'offload': True}), ('model.remat=offload', {})]
)
def test_a_device_that_cannot_read_its_hosts_memory_is_refused(
    key: str, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(**change)
    config.model.remat = 'none' if change else 'offload'
    device = jax.devices()[0]
    check_host_memory(config, device)
    other = type('Other', (), {'addressable_memories': lambda self: [Memory('device')]})
    monkeypatch.setattr(other, 'device_kind', 'toaster', raising=False)
    monkeypatch.setattr(jax, 'Device', other)
    with pytest.raises(UserError, match=f'{key}: toaster .* cannot read'):
        check_host_memory(config, other())


@pytest.mark.parametrize(
    'model',
    [
        *({'position': position} for position in ('learned', 't5', 'fire', 'cope')),
        *({'position': 't5', 'kernel': kernel} for kernel in ('blockwise', 'fused')),
        {'adapter': 'dora(rank=2)'},
        {'mixer': 'mamba2', 'position': 'none'},
        {'ffn': 'moe', 'head': 'lm(tied=True)'},
    ],
    ids=lambda m: '-'.join(m.values()),
)
def test_every_part_computes_in_its_dtype_from_bfloat16_parameters(model: dict) -> None:
    """Nothing but weights, also transposed ones, is bfloat16 in a model of float32."""
    part = small_model(param_dtype='bfloat16', **model)
    params, tokens = unboxed_shapes(part), jnp.asarray(random_tokens(2, 12))
    found = set()

    def look(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if any(getattr(v.aval, 'dtype', None) == jnp.bfloat16 for v in eqn.outvars):
                found.add(eqn.primitive.name)
            for value in eqn.params.values():
                for sub in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(getattr(sub, 'jaxpr', sub), 'eqns'):
                        look(getattr(sub, 'jaxpr', sub))

    look(jax.make_jaxpr(lambda p: apply(part, p, tokens))(params).jaxpr)
    assert found <= {'transpose', 'scan', 'jit'}
    grads = jax.eval_shape(jax.grad(lambda p: apply(part, p, tokens).sum()), params)
    assert jax.tree.map(lambda x: x.dtype, grads) == jax.tree.map(lambda x: x.dtype, params)
