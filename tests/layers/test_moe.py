"""Mixtures of experts against a loop over tokens, their losses against the papers' formulas."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.initializers import INITS
from bigmodel.layers.linear import ExpertLinear
from bigmodel.layers.losses import LOSSES
from bigmodel.specs import make
from tests.small import assert_trees_close, quick_jit, small_model

B, L, D, E, F = 2, 7, 6, 5, 4
SPECS = [
    'moe(experts=5, top_k=2, hidden=4)',
    'moe(experts=5, top_k=1, hidden=4)',
    'moe(experts=5, top_k=5, hidden=4, activation="gelu_tanh")',
    'moe(experts=5, top_k=3, shared=2, hidden=4)',
    'moe(experts=5, top_k=2, hidden=4, choice_bias=0.5, balance=0)',
]
# Sums of a dozen float32 products in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


@functools.cache
def layer(spec: str) -> tuple[nn.Module, Any, jax.Array]:
    """A layer, its parameters (all random, of standard deviation 1/2) and an input."""
    module = make(FFNS, spec, 'ffn')
    x = jnp.asarray(np.random.default_rng(1).standard_normal((B, L, D)), jnp.float32)
    rng = np.random.default_rng(0)
    boxed = jax.eval_shape(nn.init(lambda m, x: m(x), module), jax.random.key(0), x)['params']
    draw = lambda s: jnp.asarray(rng.standard_normal(s.shape) / 2, jnp.float32)  # noqa: E731
    return module, jax.tree.map(draw, nn.unbox(boxed)), x


def numpy_moe(module: Any, params: Any, x_ND: np.ndarray) -> tuple[np.ndarray, dict]:
    """One token at a time; and the losses."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    act = lambda x: np.asarray(  # noqa: E731
        {'silu': jax.nn.silu, 'gelu_tanh': jax.nn.gelu}[module.activation](x)
    )
    out, load, share, z = np.zeros_like(x_ND), np.zeros(E), np.zeros(E), 0.0
    for n, x in enumerate(x_ND):
        logits = x @ p['router']['weight']
        prob = np.exp(logits) / np.exp(logits).sum()
        chosen = np.argsort(-(prob + p.get('choice_bias', 0)))[: module.top_k]
        gates = prob[chosen] / (prob[chosen].sum() if module.top_k > 1 else 1)
        for e, g in zip(chosen, gates, strict=True):
            w = {k: p[k]['weight'][e] for k in ('gate', 'in', 'out')}
            out[n] += g * ((act(x @ w['gate']) * (x @ w['in'])) @ w['out'])
        if 'shared' in p:
            w = {k: v['weight'] for k, v in p['shared'].items()}
            out[n] += (act(x @ w['gate']) * (x @ w['in'])) @ w['out']
        load[chosen] += 1 / (module.top_k * len(x_ND))
        share += prob / len(x_ND)
        z += np.log(np.exp(logits).sum()) ** 2 / len(x_ND)
    losses = {'balance': module.balance * E * (load @ share), 'router_z': module.router_z * z}
    return out, losses | {'load': load}


@pytest.mark.parametrize('spec', SPECS)
def test_output_and_losses_are_a_loop_over_tokens(spec: str) -> None:
    module, params, x = layer(spec)
    run = quick_jit(lambda p, x: module.apply({'params': p}, x, mutable=[LOSSES]))
    got, sown = run(params, x)
    want, losses = numpy_moe(module, params, np.asarray(x, np.float64).reshape(-1, D))
    np.testing.assert_allclose(got.reshape(-1, D), want, **CLOSE)
    for name in ('balance', 'router_z'):
        if getattr(module, name):
            assert sown[LOSSES][name] == pytest.approx(losses[name], rel=1e-4)
        else:
            assert name not in sown[LOSSES]


def every_expert(module: Any, params: Any, x: jax.Array) -> jax.Array:
    """All experts on all tokens, with a gate of 0 for those that were not chosen."""
    prob = jax.nn.softmax(x @ params['router']['weight'])
    chosen = prob >= jnp.sort(prob, -1)[..., E - module.top_k, None]
    gate = jnp.where(chosen, prob, 0)
    gate = gate / gate.sum(-1, keepdims=True) if module.top_k > 1 else gate
    w = {k: params[k]['weight'] for k in ('gate', 'in', 'out')}
    into = lambda k: jnp.einsum('bld,edf->blef', x, w[k])  # noqa: E731
    return jnp.einsum('blef,efd,ble->bld', jax.nn.silu(into('gate')) * into('in'), w['out'], gate)


@pytest.mark.parametrize('spec', SPECS[:2])
def test_gradients_are_those_of_a_sum_over_all_experts(spec: str) -> None:
    module, params, x = layer(spec)
    layers = (lambda p, x: module.apply({'params': p}, x), functools.partial(every_expert, module))
    got, want = (
        quick_jit(jax.grad(lambda w, f=f: jnp.sum(jnp.sin(f(*w)))))((params, x)) for f in layers
    )
    assert_trees_close(got[0], want[0], **CLOSE)
    np.testing.assert_allclose(got[1], want[1], **CLOSE)


def test_the_bias_of_the_choice_is_pulled_by_the_load_and_changes_no_loss() -> None:
    module, params, x = layer(SPECS[-1])
    load = numpy_moe(module, params, np.asarray(x, np.float64).reshape(-1, D))[1]['load']

    def added(params: Any) -> jax.Array:
        return module.apply({'params': params}, x, mutable=[LOSSES])[1][LOSSES]['choice_bias']

    value, grads = jax.value_and_grad(added)(params)
    assert value == 0
    np.testing.assert_allclose(grads.pop('choice_bias'), 0.5 * (load - 0.2), rtol=1e-5, atol=1e-7)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_balanced_experts_cost_the_coefficient() -> None:
    """Equal logits: probabilities are uniform, whatever the load."""
    module, params, x = layer(SPECS[0])
    params = params | {'router': {'weight': jnp.zeros((D, E))}}
    sown = module.apply({'params': params}, x, mutable=[LOSSES])[1][LOSSES]
    assert sown['balance'] == pytest.approx(module.balance, rel=1e-5)
    assert sown['router_z'] == pytest.approx(module.router_z * np.log(E) ** 2, rel=1e-5)


def test_one_expert_is_the_gated_layer() -> None:
    module, params, x = layer('moe(experts=1, top_k=1, hidden=4)')
    dense = {k: {'weight': params[k]['weight'][0]} for k in ('gate', 'in', 'out')}
    want = make(FFNS, 'gated(hidden=4)', 'ffn').apply({'params': dense}, x)
    np.testing.assert_allclose(module.apply({'params': params}, x), want, **CLOSE)


def test_experts_of_a_token_are_as_wide_as_the_dense_layer() -> None:
    """gated has 256 hidden units at width 96; two experts, or one of two and two shared."""
    shapes = lambda spec: jax.eval_shape(  # noqa: E731
        nn.init(lambda m, x: m(x), make(FFNS, spec, 'ffn')), jax.random.key(0), jnp.ones((1, 1, 96))
    )['params']
    assert shapes('moe')['in']['weight'].value.shape == (8, 96, 128)
    both = shapes('moe(top_k=2, shared=2)')
    assert both['in']['weight'].value.shape == (8, 96, 64)
    assert both['shared']['in']['weight'].value.shape == (96, 128)
    assert both['in']['weight'].names == ('experts', 'embed', 'mlp')
    assert both['out']['weight'].names == ('experts', 'mlp', 'embed')


@pytest.mark.parametrize('role', ['linear', 'residual'])
def test_std_of_an_experts_weight_counts_the_inputs_of_one_expert(role: str) -> None:
    init = make(INITS, 'fan_in', 'init', depth=8)
    module = ExpertLinear(16, 64, ('embed', 'mlp'), role, init)
    start = nn.init(lambda m, x: m(x, jnp.zeros(16, int)), module)
    (weight,) = jax.tree.leaves(nn.unbox(quick_jit(start)(jax.random.key(0), jnp.ones((1, 64)))))
    # 65,536 draws: the measured std is within 1.4 % at 5 sigma.
    assert weight.std() == pytest.approx(1 / 8 / (4 if role == 'residual' else 1), rel=0.014)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('moe(experts=2, top_k=3)', "model.ffn='moe.* needs top_k=3 experts .* but experts=2"),
        ('moe("silo")', "unknown activation 'silo'. Did you mean 'silu'"),
        ('moe(experts=0)', 'must be positive'),
    ],
)
def test_impossible_mixtures_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_model(ffn=spec)
