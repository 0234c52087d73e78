"""Optimizers against PyTorch, references and optax; decay, rates, freezing, clipping, tracing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from bigmodel import config as config_lib
from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.convolution import DepthwiseConv
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.linear import ExpertWeight, Linear, Matrix
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS
from bigmodel.layers.weights import WEIGHTS
from bigmodel.models.heads import HEADS
from bigmodel.sharding import is_box
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import abstract_params
from experiments import defaults
from tests.golden.values import golden
from tests.small import assert_trees_close, random_params, small_config, small_model, unboxed_shapes

# Golden values are float64; ten float32 updates.
CLOSE = {'rtol': 2e-5, 'atol': 2e-6}
STEPS = 10


def config(**optimizer: Any) -> Any:
    """A constant rate of 0.05, without decay or clipping unless asked for."""
    c = defaults.get_config()
    c.schedule = 'constant'
    c.num_steps = STEPS
    c.model.init = 'gpt2'  # leaves learning rates as they are
    base = {'learning_rate': 0.05, 'weight_decay': 0.0, 'clip_norm': 0.0, 'decay': (('.*', 1.0),)}
    c.optimizer.update(base | optimizer)
    return c


def boxed(shapes: dict[str, tuple[int, ...]], **axes: tuple[str, ...]) -> Any:
    """Abstract parameters with axes that no optimizer treats specially, or with those given."""
    return {
        k: nn.LogicallyPartitioned(
            jax.ShapeDtypeStruct(s, jnp.float32), axes.get(k, ('embed',) * len(s))
        )
        for k, s in shapes.items()
    }


def trajectory(c: Any, abstract: Any, start: Any, grads: Any) -> dict[str, np.ndarray]:
    """Parameters after each step with given gradients (stacked over steps)."""
    optimizer, hparams = build_optimizer(c, abstract)

    @jax.jit
    def run(start: Any, grads: Any) -> Any:
        def body(carry: Any, xs: Any) -> Any:
            params, state = carry
            part = optimizer.selection.part(xs[1])
            params, state = optimizer.update(part, state, params, xs[0], hparams)
            return (params, state), params

        steps = jnp.arange(len(jax.tree.leaves(grads)[0]))
        return jax.lax.scan(body, (start, optimizer.init(start, hparams)), (steps, grads))[1]

    return jax.tree.map(np.asarray, run(start, grads))


def small_problem(*shape: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    start, grads = rng.standard_normal(shape), rng.standard_normal((STEPS, *shape))
    return {'w': jnp.asarray(start, jnp.float32)}, {'w': jnp.asarray(grads, jnp.float32)}


@pytest.mark.parametrize(
    ('name', 'keys'),
    [
        ('adamw', {'name': 'adamw(b1=0.9, b2=0.95)', 'weight_decay': 0.1}),
        (
            'adamw_clip',
            {'name': 'adamw(b1=0.8, b2=0.99, eps=1e-6)', 'weight_decay': 0.1, 'clip_norm': 1.0},
        ),
        ('sgd', {'name': 'sgd'}),
        ('sgd_nesterov', {'name': 'sgd(momentum=0.8, nesterov=True)', 'clip_norm': 1.0}),
    ],
)
def test_trajectory_is_pytorchs(name: str, keys: dict) -> None:
    start, grads = golden('optimizer/start'), golden('optimizer/grads')
    abstract = boxed({k: v.shape for k, v in start.items()})
    assert_trees_close(
        trajectory(config(**keys), abstract, start, grads), golden(f'optimizer/{name}'), **CLOSE
    )


def lion(w: np.ndarray, grads: np.ndarray, lr: float, decay: float) -> list[np.ndarray]:
    """Chen et al. 2023, algorithm 2."""
    m, found = np.zeros_like(w), []
    for g in grads:
        w = w - lr * (np.sign(0.9 * m + 0.1 * g) + decay * w)
        m = 0.99 * m + 0.01 * g
        found.append(w)
    return found


def adafactor(w: np.ndarray, grads: np.ndarray, lr: float, decay: float) -> list[np.ndarray]:
    """Shazeer & Stern 2018, algorithm 4, with β₂ = 1 − t^−0.8 and update clipping at 1."""
    row, column, found = np.zeros(w.shape[0]), np.zeros(w.shape[1]), []
    for t, g in enumerate(grads, 1):
        b, square = 1 - t**-0.8, g * g + 1e-30
        row = b * row + (1 - b) * square.mean(1)
        column = b * column + (1 - b) * square.mean(0)
        u = g / np.sqrt(np.outer(row, column) / row.mean())
        u = u / max(1, np.sqrt((u * u).mean()))
        w = w - lr * (u + decay * w)
        found.append(w)
    return found


def muon(w: np.ndarray, grads: np.ndarray, lr: float, decay: float) -> list[np.ndarray]:
    """Jordan et al. 2024 (Nesterov, five quintic iterations), RMS 0.2 as in Liu et al. 2025."""
    m, found = np.zeros_like(w), []
    for t, g in enumerate(grads, 1):
        m = 0.95 * m + 0.05 * g
        mean = m / (1 - 0.95 ** (t + 1))  # optax corrects the bias of both terms
        x = 0.95 * mean + 0.05 * g / (1 - 0.95**t)
        x = x / (np.linalg.norm(x) + 1e-8)
        for _ in range(5):
            a = x @ x.T if len(x) <= x.shape[1] else x.T @ x
            p = -4.775 * a + 2.0315 * a @ a
            x = 3.4445 * x + (p @ x if len(x) <= x.shape[1] else x @ p)
        w = w - lr * (0.2 * np.sqrt(max(w.shape)) * x + decay * w)
        found.append(w)
    return found


REFERENCES: dict[str, Callable] = {'lion': lion, 'adafactor': adafactor, 'muon': muon}


def test_every_optimizer_has_a_reference() -> None:
    assert set(REFERENCES) | {'adamw', 'sgd'} == set(OPTIMIZERS)


@pytest.mark.parametrize('shape', [(8, 6), (6, 8)], ids=str)
@pytest.mark.parametrize('name', REFERENCES)
def test_trajectory_is_the_papers(name: str, shape: tuple[int, int]) -> None:
    start, grads = small_problem(*shape)
    spec = 'adafactor(min_dim=2)' if name == 'adafactor' else name
    axes = {'w': ('layers', 'embed', 'mlp')} if name == 'muon' else {}
    lift = (lambda x, at: jnp.expand_dims(x, at)) if axes else (lambda x, at: x)  # one layer
    abstract = boxed({'w': (1, *shape) if axes else shape}, **axes)
    lifted = {'w': lift(start['w'], 0)}, {'w': lift(grads['w'], 1)}
    got = trajectory(config(name=spec, weight_decay=0.1), abstract, *lifted)['w']
    want = REFERENCES[name](np.asarray(start['w'], np.float64), np.asarray(grads['w']), 0.05, 0.1)
    # Ten updates of up to 0.2; muon's iterations amplify float32 rounding by 3.4 each.
    np.testing.assert_allclose(got.reshape(np.shape(want)), want, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize('layers', [2, 12])  # fewer and more than a matrix has rows
def test_adafactor_factors_each_layers_matrix(layers: int) -> None:
    """Layers of (embed) -> (heads, head_dim) move as matrices that are alone would."""
    start, grads = small_problem(layers, 8, 2, 3)
    axes = {'w': ('layers', 'embed', 'heads', 'head_dim')}
    c = config(name='adafactor(min_dim=2)', weight_decay=0.1)
    got = trajectory(c, boxed({'w': (layers, 8, 2, 3)}, **axes), start, grads)['w']
    for layer in range(layers):
        w = np.asarray(start['w'][layer], np.float64).reshape(8, 6)
        g = np.asarray(grads['w'][:, layer]).reshape(STEPS, 8, 6)
        want = np.stack(adafactor(w, g, 0.05, 0.1)).reshape(STEPS, 8, 2, 3)
        np.testing.assert_allclose(got[:, layer], want, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize('name', ['adafactor', 'muon'])
@pytest.mark.parametrize('names', [('embed', 'mlp'), ('mlp', 'embed')], ids=str)
def test_each_experts_matrix_moves_as_if_it_were_alone(name: str, names: tuple[str, str]) -> None:
    """Two layers of three experts, against the papers' updates of six matrices."""
    start, grads = small_problem(2, 3, 8, 6)
    c = config(name='adafactor(min_dim=2)' if name == 'adafactor' else name, weight_decay=0.1)
    abstract = boxed({'w': (2, 3, 8, 6)}, w=('layers', 'experts', *names))
    got = trajectory(c, abstract, start, grads)['w']
    for at in np.ndindex(2, 3):
        w, g = np.asarray(start['w'][at], np.float64), np.asarray(grads['w'][(slice(None), *at)])
        want = np.stack(REFERENCES[name](w, g, 0.05, 0.1))
        np.testing.assert_allclose(got[(slice(None), *at)], want, rtol=1e-4, atol=2e-4)


def test_muon_orthogonalises_each_layers_matrix_over_the_right_dims() -> None:
    """q: (embed) -> (heads, head_dim); out: (heads, head_dim) -> (embed); two layers."""
    rng = np.random.default_rng(0)
    shapes = {'q': (2, 12, 2, 3), 'out': (2, 2, 3, 12), 'scale': (2, 12), 'table': (7, 12)}
    axes = {
        'q': ('layers', 'embed', 'heads', 'head_dim'),
        'out': ('layers', 'heads', 'head_dim', 'embed'),
        'scale': ('layers', 'embed'),
        'table': ('vocab', 'embed'),
    }
    start = {k: jnp.zeros(s) for k, s in shapes.items()}
    grads = {k: jnp.asarray(rng.standard_normal((1, *s)), jnp.float32) for k, s in shapes.items()}
    moved = trajectory(config(name='muon', learning_rate=1.0), boxed(shapes, **axes), start, grads)
    for name, matrix in (('q', (12, 6)), ('out', (6, 12))):
        for layer in moved[name][0]:
            x = layer.reshape(matrix)
            singular = np.linalg.svd(x / (0.2 * np.sqrt(12)))[1]
            # Five iterations bring singular values to between 0.7 and 1.2 (Jordan et al. 2024).
            assert ((singular > 0.6) & (singular < 1.3)).all()
            assert np.sqrt((x * x).mean()) == pytest.approx(0.2, rel=0.2)
    # Everything else is Adam's: a first step of 1 in the direction of the sign.
    for name in ('scale', 'table'):
        np.testing.assert_allclose(moved[name], -np.sign(grads[name]), rtol=1e-5)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_moments_are_where_optax_puts_them_and_directions_for_a_unit_rate(name: str) -> None:
    """A twice as large learning rate moves parameters twice as far."""
    start, grads = small_problem(4, 6)
    first = {k: g[:1] for k, g in grads.items()}
    abstract = boxed({'w': (4, 6)})
    one, two = (
        trajectory(config(name=name, learning_rate=r), abstract, start, first)['w'][0] - start['w']
        for r in (0.01, 0.02)
    )
    assert np.abs(one).max() > 0
    np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-6)


def test_default_decay_spares_scales_biases_and_tables() -> None:
    """Without gradients only decay moves parameters: by 1 − rate·decay."""
    model = small_model(position='learned', mixer='attention(bias=True)', norm='layernorm')
    params = random_params(model)
    c = defaults.get_config()
    c.model.init, c.schedule = 'gpt2', 'constant'
    c.optimizer.update({'learning_rate': 0.5, 'weight_decay': 0.2})
    optimizer, hparams = build_optimizer(c, abstract_params(model))
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = optimizer.init(params, hparams)
    moved, _ = jax.jit(optimizer.update)(zeros, state, params, jnp.int32(0), hparams)
    before = params_lib.flatten(params)
    spared = set()
    for path, after in params_lib.flatten(moved).items():
        if np.array_equal(after, before[path]):
            spared.add(path.split('/')[-1])
        else:
            np.testing.assert_allclose(after, 0.9 * before[path], rtol=1e-6)
            assert path.endswith('weight')
    assert spared == {'scale', 'bias', 'table'}


# A model for each part that has parameters, and for the arguments that add some.
PARTS = [
    *({'position': position} for position in POSITIONS),
    *({'norm': norm} for norm in NORMS),
    *({'block': block} for block in BLOCKS),
    *({'ffn': ffn, 'mask': 'full'} for ffn in FFNS),
    *({'mixer': mixer, 'position': 'none', 'num_kv_heads': 4} for mixer in MIXERS),
    *({'mixer': f'attention(weights="{weights}")'} for weights in WEIGHTS),
    {'mixer': 'attention(bias=True, out_bias=True, gate=True, qk_norm="layernorm")'},
    {'mixer': 'attention(fused_qkv=True)'},
    {'mixer': 'mla(q_rank=4)', 'num_kv_heads': 4},
    {'ffn': 'moe(choice_bias=1.0, shared=1)'},
    {'head': 'lm(tied=False)'},
    *({'head': head, 'num_labels': 3} for head in HEADS if head != 'pixels'),
    {'head': 'pixels', 'inputs': 'patches(class_token=True, mask_token=True)'},
]


@pytest.mark.parametrize('model', PARTS, ids=str)
def test_default_decay_is_of_matrices_and_of_nothing_else(model: dict) -> None:
    """Those of Linear, Matrix, ExpertWeight and DepthwiseConv: two dims or more beside the layers'.

    Not gains and offsets, rates of forgetting, biases of a choice or tables.
    """
    made = set()

    def note(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Linear | ExpertWeight | DepthwiseConv | Matrix):
            made.add('/'.join((*context.module.path, 'weight')))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        abstract = abstract_params(small_model(**model))
    shapes = jax.tree.map(lambda box: box.value, abstract, is_leaf=is_box)
    rules = defaults.get_config().optimizer.decay
    factors = params_lib.flatten(params_lib.assign(rules, shapes, 'optimizer.decay'))
    assert factors == {path: float(path in made) for path in factors}
    for path, box in jax.tree_util.tree_leaves_with_path(abstract, is_leaf=is_box):
        own = set(box.names) - {'layers'}
        assert params_lib.path_of(path) not in made or len(own) >= 2, path


def small_update(seed: int = 0, **optimizer: Any) -> tuple[Any, Any, Any]:
    """(parameters, parameters after one update with random gradients, optimizer state)."""
    model = small_model()
    c = small_config()
    c.schedule = 'constant'
    c.optimizer.update(optimizer)
    params, grads = random_params(model), random_params(model, seed + 1)
    built, hparams = build_optimizer(c, abstract_params(model))
    state = built.init(params, hparams)
    grads = built.selection.part(grads)
    moved, state = jax.jit(built.update)(grads, state, params, jnp.int32(0), hparams)
    return params_lib.flatten(params), params_lib.flatten(moved), state


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_frozen_parameters_stay_bitwise_and_have_no_state(name: str) -> None:
    train = (('.*/ffn/.*', True), ('.*final_norm.*', True), ('.*', False))
    before, after, state = small_update(name=name, train=train, weight_decay=0.1)
    trained = {path for path in before if '/ffn/' in path or 'final_norm' in path}
    assert 0 < len(trained) < len(before)
    for path in before:
        assert np.array_equal(before[path], after[path]) == (path not in trained), path
    for path in params_lib.flatten(state):
        assert not any(path.endswith(frozen) for frozen in set(before) - trained), path


def test_learning_rate_multipliers_scale_the_update() -> None:
    rates = (('.*/ffn/.*', 0.25), ('.*norm.*', 0.0), ('.*', 1.0))
    before, after, _ = small_update(weight_decay=0.1)
    _, scaled, _ = small_update(weight_decay=0.1, rates=rates)
    for path, start in before.items():
        factor = 0.25 if '/ffn/' in path else 0.0 if 'norm' in path else 1.0
        np.testing.assert_allclose(
            scaled[path] - start, factor * (after[path] - start), rtol=1e-2, atol=1e-6, err_msg=path
        )


def test_clipping_looks_at_trained_parameters_alone() -> None:
    """A huge gradient of a frozen parameter must not shrink the others' updates."""
    abstract = boxed({'a': (3,), 'b': (3,)})
    start = {'a': jnp.zeros(3), 'b': jnp.zeros(3)}
    grads = {'a': jnp.array([[0.3, 0.0, 0.4]]), 'b': jnp.full((1, 3), 1e6)}
    c = config(name='sgd', clip_norm=1.0, train=(('a', True), ('b', False)))
    np.testing.assert_allclose(
        trajectory(c, abstract, start, grads)['a'][0], [-0.015, 0, -0.02], rtol=1e-5
    )


@pytest.mark.parametrize(('clip', 'norm'), [(0.0, 5.0), (1.0, 1.0), (10.0, 5.0)])
def test_clipping_bounds_the_global_norm(clip: float, norm: float) -> None:
    abstract = boxed({'a': (1,), 'b': (1,)})
    start = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
    grads = {'a': jnp.array([[3.0]]), 'b': jnp.array([[4.0]])}
    c = config(name='sgd', clip_norm=clip, learning_rate=1.0)
    moved = trajectory(c, abstract, start, grads)
    got = np.array([moved['a'][0, 0], moved['b'][0, 0]])
    np.testing.assert_allclose(got, [-0.6 * norm, -0.8 * norm], rtol=1e-6)


# Other numbers for every argument that is one. A new optimizer needs a line.
OTHER_NUMBERS = {
    'adamw': 'adamw(b1=0.5, b2=0.6, eps=0.1)',
    'lion': 'lion(b1=0.5, b2=0.6)',
    'sgd': 'sgd(momentum=0.5)',
    'adafactor': 'adafactor(decay_rate=0.5, clipping=0.5)',
    'muon': 'muon(beta=0.5, rms=0.5, b1=0.5, b2=0.5, eps=0.1)',
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_numbers_are_traced_so_that_arms_share_one_program(name: str) -> None:
    model = small_model()
    abstract, params, grads = abstract_params(model), random_params(model), random_params(model, 1)

    def built(change: dict) -> tuple:
        c = small_config()
        c.optimizer.update({'name': name, 'clip_norm': 0.0})
        for key, value in change.items():
            config_lib.override(c, key, str(value))
        return build_optimizer(c, abstract)

    optimizer, hparams = built({})
    # As if some steps had gone by: without a past, the first update shows nothing of a momentum.
    fresh = optimizer.init(params, hparams)
    state = jax.tree.map(lambda x: x + 0.1 if x.dtype == jnp.float32 else x, fresh)
    traces = []

    @jax.jit
    def update(params: Any, grads: Any, state: Any, step: jax.Array, hparams: Any) -> Any:
        traces.append(name)
        return optimizer.update(grads, state, params, step, hparams)[0]

    base = params_lib.flatten(update(params, grads, state, jnp.int32(20), hparams))
    for change in (
        {'optimizer.learning_rate': 0.3},
        {'optimizer.weight_decay': 0.01},
        {'optimizer.clip_norm': 1e-3},
        {'schedule': 'cosine(warmup_steps=5, final=0.5)'},
        {'num_steps': 77, 'schedule': 'cosine(warmup_steps=5)'},
        {'optimizer.name': OTHER_NUMBERS[name]},
    ):
        _, other = built(change)
        moved = params_lib.flatten(update(params, grads, state, jnp.int32(20), other))
        assert any(np.any(moved[k] != base[k]) for k in base), change
    assert len(traces) == 1


def test_a_learning_rate_is_the_schedules_share_of_the_peak() -> None:
    c = config(learning_rate=0.5)
    c.schedule = 'linear(warmup_steps=4)'
    optimizer, hparams = build_optimizer(c, boxed({'w': (2,)}))
    got = [float(optimizer.learning_rate(jnp.int32(t), hparams)) for t in (0, 3, 9)]
    np.testing.assert_allclose(got, [0.125, 0.5, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'adam'}, "unknown optimizer.name 'adam'. Did you mean 'adamw'"),
        ({'name': 'adamw(beta=1.0)'}, "optimizer.name: adamw has no argument 'beta'"),
        ({'name': 'adamw(axes=1)'}, "has no argument 'axes'"),
        ({'name': 'sgd(nesterov=1)'}, r'sgd\(nesterov=...\): expected bool'),
        ({'train': (('.*', False),)}, 'freezes every parameter'),
        ({'train': (('nothing', True),)}, r'optimizer.train: nothing matches .*end the list with'),
        ({'decay': (('(', 1.0),)}, r"optimizer.decay: '\(' is not a regular expression"),
        ({'rates': (('x', 1.0),)}, 'optimizer.rates: nothing matches'),
        ({'learning_rate': -1.0}, 'optimizer.learning_rate=-1.0 must not be negative'),
        ({'weight_decay': float('nan')}, 'optimizer.weight_decay=nan must not be negative'),
        ({'schedule': 'cosin'}, "unknown schedule 'cosin'. Did you mean 'cosine'"),
        ({'schedule': 'cosine(step=1)'}, "schedule: cosine has no argument 'step'"),
        ({'schedule': 'cosine(warmup_steps=0.1)'}, r'cosine\(warmup_steps=...\): expected int'),
    ],
)
def test_bad_optimizers_are_refused(change: dict, message: str) -> None:
    c = small_config()
    for key, value in change.items():
        (c if key == 'schedule' else c.optimizer)[key] = value
    with pytest.raises(UserError, match=message):
        build_optimizer(c, abstract_params(small_model()))


def test_optimizer_state_can_be_shaped_without_computing() -> None:
    model = small_model()
    optimizer, hparams = build_optimizer(small_config(), abstract_params(model))
    state = jax.eval_shape(lambda p, h: optimizer.init(p, h), unboxed_shapes(model), hparams)
    assert optax.tree.get(state, 'mu').keys() == {'backbone', 'inputs'}


@pytest.mark.parametrize('name', ['adafactor(min_dim=4)', 'muon'])
def test_shared_layers_are_updated_as_layers_of_their_own(name: str) -> None:
    """Their weights have no dim of layers; one layer is the same either way, experts too."""

    def update(share: str) -> dict[str, np.ndarray]:
        model = {'depth': 1, 'share': share, 'ffn': 'moe(experts=3)', 'ahead': 'mtp'}
        run = small_config(**model)
        run.optimizer.name = name
        built, rng = small_model(**model), np.random.default_rng(0)
        optimizer, hparams = build_optimizer(run, abstract_params(built))
        draw = lambda leaf: jnp.asarray(rng.standard_normal(leaf.size).reshape(leaf.shape))  # noqa: E731
        params, grads = (jax.tree.map(draw, unboxed_shapes(built)) for _ in range(2))
        state, step = optimizer.init(params, hparams), jnp.zeros((), jnp.int32)
        new = optimizer.update(grads, state, params, step, hparams)[0]
        moved = jax.tree.map(lambda a, b: np.ravel(a - b), new, params)
        return params_lib.flatten(moved)

    shared, own = update('all'), update('none')
    assert shared.keys() == own.keys()
    for path, moved in own.items():
        np.testing.assert_allclose(shared[path], moved, rtol=1e-3, atol=1e-7, err_msg=path)
