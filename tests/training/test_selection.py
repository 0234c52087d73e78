"""The last layers, and rates that fall with the depth: by hand, and as patterns written in full."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.sharding import make_sharding
from bigmodel.training.averages import with_average
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import abstract_params, init_state, state_sharding
from tests.small import assert_trees_close, quick_jit, random_params, small_config, small_model

STEPS = 3
LAYERS = 'backbone/layers/block_0'


def updated(model: dict, steps: int = STEPS, **optimizer: Any) -> tuple[Any, Any, Any, Any]:
    """Parameters before and after some updates, gradients of each, and the optimizer's state."""
    built, config = small_model(**model), small_config(**model)
    config.schedule = 'constant'
    config.optimizer.update({'clip_norm': 0.0} | optimizer)
    tuner, hparams = with_average(config, *build_optimizer(config, abstract_params(built)))
    params = start = random_params(built)
    state, update, grads = tuner.init(params, hparams), quick_jit(tuner.update), []
    for t in range(steps):
        grads.append(random_params(built, 10 + t))
        part = tuner.selection.part(grads[-1])
        params, state = update(part, state, params, jnp.int32(t), hparams)
    flat = params_lib.flatten
    return flat(start), flat(params), [flat(g) for g in grads], state


def test_rates_fall_with_the_depth_as_in_the_papers() -> None:
    """Momentum and decoupled decay at rate·decay^(N + 1 − i): inputs 0, layer i, head N + 1."""
    rate, share, decay, momentum = 0.1, 0.5, 0.2, 0.9
    changes = {'name': f'sgd(momentum={momentum})', 'learning_rate': rate, 'weight_decay': decay}
    model = {'depth': 3, 'head': 'lm(tied=False)', 'init': 'gpt2'}
    start, after, grads, _ = updated(model, layer_decay=share, decay=(('.*', 1.0),), **changes)
    powers = {'inputs/': 4, 'backbone/final_norm/': 0, 'head/': 0}
    for path, p in start.items():
        power = next((n for at, n in powers.items() if path.startswith(at)), None)
        power = np.array([3, 2, 1]).reshape(-1, *[1] * (p.ndim - 1)) if power is None else power
        want, m = np.asarray(p, np.float64), 0.0
        for g in grads:
            m = momentum * m + np.asarray(g[path], np.float64)
            want = want - rate * share**power * (m + decay * want)
        np.testing.assert_allclose(after[path], want, rtol=1e-5, atol=1e-6, err_msg=path)


def in_full(flat: dict[str, Any]) -> dict[str, Any]:
    """Stacked layers under the names that a pattern of all of them gives."""
    full = {}
    for path, x in flat.items():
        if path.startswith(LAYERS):
            for i in range(2):
                full[path.replace('block_0', f'block_{i}')] = np.asarray(x)[i : i + 1]
        else:
            full[path] = np.asarray(x)
    return full


def pattern_update(config: Any, start: dict, grads: list) -> dict[str, Any]:
    """The same updates of a model whose two layers are a pattern."""
    tuner, hparams = build_optimizer(config, abstract_params(small_model(pattern=PATTERN)))
    params = params_lib.nest({p: jnp.asarray(x) for p, x in in_full(start).items()})
    state, update = tuner.init(params, hparams), quick_jit(tuner.update)
    for t, g in enumerate(grads):
        part = tuner.selection.part(params_lib.nest(in_full(g)))
        params, state = update(part, state, params, jnp.int32(t), hparams)
    return params_lib.flatten(params)


PATTERN = ('causal', 'causal')
# What the keys say, and the same said by regexes where each layer has a name.
KEYS = [
    (
        {'layer_decay': 0.5},
        {
            'rates': (
                ('inputs/.*', 0.125),
                ('backbone/layers/block_0/.*', 0.25),
                ('backbone/layers/block_1/.*', 0.5),
                ('.*', 1.0),
            )
        },
    ),
    (
        {'last_layers': 1},
        {'train': (('(inputs|backbone/layers/block_0)/.*', False), ('.*', True))},
    ),
]


@pytest.mark.parametrize('name', ['adamw', 'muon', 'adafactor(min_dim=4)'])
@pytest.mark.parametrize(('keys', 'regexes'), KEYS, ids=['layer_decay', 'last_layers'])
def test_it_is_a_pattern_written_out_in_full(keys: dict, regexes: dict, name: str) -> None:
    start, after, grads, _ = updated({}, name=name, clip_norm=1.0, **keys)
    for changes in (keys, regexes):
        config = small_config(pattern=PATTERN)
        config.schedule = 'constant'
        config.optimizer.update({'name': name, 'clip_norm': 1.0} | changes)
        # muon's iterations amplify float32 rounding, which differs between programs.
        assert_trees_close(in_full(after), pattern_update(config, start, grads), 1e-3, 1e-5)


@pytest.mark.parametrize('name', ['adamw', 'muon', 'lion', 'sgd', 'adafactor(min_dim=4)'])
def test_frozen_layers_stay_bitwise_and_have_no_state(name: str) -> None:
    start, after, _, state = updated({'depth': 3}, name=name, last_layers=2, ema=0.5)
    for path, before in start.items():
        if path.startswith(LAYERS):
            np.testing.assert_array_equal(after[path][:1], before[:1], err_msg=path)
            assert all((after[path][i] != before[i]).any() for i in (1, 2)), path
        else:
            assert np.array_equal(after[path], before) == path.startswith('inputs/'), path
    held = params_lib.flatten(state)
    assert {x.shape[0] for p, x in held.items() if LAYERS in p and x.ndim > 1} == {2}
    assert not any('inputs' in path for path in held)


def test_gradients_of_frozen_layers_do_not_count_in_the_norm() -> None:
    config = small_config()
    config.optimizer.last_layers = 1
    tuner, _ = build_optimizer(config, abstract_params(small_model()))
    grads = random_params(small_model())
    flat = params_lib.flatten(grads)
    want = [x[1:] if p.startswith(LAYERS) else x for p, x in flat.items() if 'inputs' not in p]
    want = np.sqrt(sum(np.sum(np.square(x)) for x in want))
    np.testing.assert_allclose(tuner.norm(tuner.selection.part(grads)), want, rtol=1e-5)


def test_moments_of_the_last_layers_lie_where_their_parameters_do() -> None:
    model, config = small_model(), small_config()
    config.optimizer.last_layers = 1
    boxed = abstract_params(model)
    tuner, hparams = build_optimizer(config, boxed)
    shapes = jax.eval_shape(lambda h: init_state(model, tuner, h), hparams)
    places = state_sharding(make_sharding('data=2,fsdp=4', 'fsdp'), boxed, shapes)
    params, moments = (params_lib.flatten(t) for t in (places.params, places.opt_state))
    split = {p: m for p, m in moments.items() if p.endswith('mixer/q/weight')}
    assert len(split) == 2
    for place in split.values():
        assert place == params[f'{LAYERS}/mixer/q/weight'] and not place.is_fully_replicated


@pytest.mark.parametrize(
    ('model', 'optimizer', 'message'),
    [
        ({}, {'last_layers': 3}, 'last_layers=3 must be in 1 to model.depth=2'),
        ({}, {'last_layers': -1}, 'last_layers=-1 must be in 1'),
        ({}, {'layer_decay': 0.0}, r'layer_decay=0.0 must be in \(0, 1\]'),
        ({}, {'layer_decay': 1.5}, r'layer_decay=1.5 must be in \(0, 1\]'),
        ({'share': 'all'}, {'layer_decay': 0.9}, "model.share='all' makes them the same"),
        ({'share': 'all'}, {'last_layers': 1}, "model.share='all' makes them the same"),
        (
            {'encoder_depth': 2, 'cross': 'attention'},
            {'last_layers': 1},
            'model.encoder_depth=2 makes two stacks',
        ),
        ({}, {'last_layers': 1, 'train': (('inputs/.*', True), ('.*', False))}, 'freezes every'),
    ],
)
def test_layers_that_cannot_be_counted_are_refused(model, optimizer, message) -> None:
    config = small_config(**model)
    config.optimizer.update(optimizer)
    with pytest.raises(UserError, match=message):
        build_optimizer(config, abstract_params(small_model(**model)))
