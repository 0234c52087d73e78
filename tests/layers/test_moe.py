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
from bigmodel.layers.linear import ExpertWeight
from bigmodel.layers.losses import LOSSES, REPORTS
from bigmodel.layers.moe import ExpertChoice
from bigmodel.specs import make
from tests.small import assert_trees_close, quick_jit, small_model

B, L, D, E, F = 2, 7, 6, 5, 4
SPECS = [
    'moe(experts=5, top_k=2, hidden=4)',
    'moe(experts=5, top_k=1, hidden=4)',
    'moe(experts=5, top_k=5, hidden=4, activation="gelu_tanh")',
    'moe(experts=5, top_k=3, shared=2, hidden=4)',
    'moe(experts=5, top_k=2, hidden=4, choice_bias=0.5, balance=0)',
    'switch(experts=5, hidden=4)',
    'switch(experts=5, top_k=2, hidden=4, capacity=0.6, shared=1)',
    'switch(experts=5, top_k=3, hidden=4, capacity=9)',
    'expert_choice(experts=5, hidden=4)',
    'expert_choice(experts=5, hidden=4, capacity=0.7, shared=1)',
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


def numpy_moe(module: Any, params: Any, x_BLD: np.ndarray) -> tuple[np.ndarray, dict]:
    """One token at a time, row by row; what is added to the loss and reported."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    act = lambda x: np.asarray(  # noqa: E731
        {'silu': jax.nn.silu, 'gelu_tanh': jax.nn.gelu}[module.activation](x)
    )
    gated = lambda x, w: (act(x @ w['gate']) * (x @ w['in'])) @ w['out']  # noqa: E731
    expert = lambda e: {k: p[k]['weight'][e] for k in ('gate', 'in', 'out')}  # noqa: E731
    logits = x_BLD @ p['router']['weight']
    prob = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assign = takers if isinstance(module, ExpertChoice) else takings
    gates, told = assign(module, prob, p.get('choice_bias', 0))
    out = sum(gates[..., e, None] * gated(x_BLD, expert(e)) for e in range(E))
    if 'shared' in p:
        out = out + gated(x_BLD, {k: v['weight'] for k, v in p['shared'].items()})
    told['router_z'] = module.router_z * (np.log(np.exp(logits).sum(-1)) ** 2).mean()
    return out, told


def takings(module: Any, prob: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, dict]:
    """The gate of each expert for each token where tokens choose, in their order."""
    gates, load, dropped = np.zeros_like(prob), np.zeros(E), 0.0
    places = getattr(module, 'capacity', np.inf) * module.top_k * L / E
    for b in range(B):
        taken = np.zeros(E)
        for t in range(L):
            chosen = np.argsort(-(prob[b, t] + bias))[: module.top_k]
            total = prob[b, t, chosen].sum() if module.top_k > 1 else 1
            for e in chosen:
                if taken[e] < np.ceil(places):
                    gates[b, t, e] = prob[b, t, e] / total
                else:
                    dropped += 1 / (B * L * module.top_k)
                taken[e] += 1
        load += taken / (B * L * module.top_k)
    balance = module.balance * E * (load @ prob.mean((0, 1)))
    return gates, {'balance': balance, 'load': load, 'dropped': dropped}


def takers(module: Any, prob: np.ndarray, bias: Any) -> tuple[np.ndarray, dict]:
    """The gate of each expert for each token where experts choose."""
    gates, places = np.zeros_like(prob), int(np.ceil(module.capacity * L / E))
    for b in range(B):
        for e in range(E):
            best = np.argsort(-prob[b, :, e])[:places]
            gates[b, best, e] = prob[b, best, e]
    return gates, {'unserved': (gates.sum(-1) == 0).mean()}


@pytest.mark.parametrize('spec', SPECS)
def test_output_losses_and_reports_are_a_loop_over_tokens(spec: str) -> None:
    module, params, x = layer(spec)
    run = quick_jit(lambda p, x: module.apply({'params': p}, x, mutable=[LOSSES, REPORTS]))
    got, sown = run(params, x)
    want, told = numpy_moe(module, params, np.asarray(x, np.float64))
    np.testing.assert_allclose(got, want, **CLOSE)
    for name in ('balance', 'router_z'):
        assert (name in sown[LOSSES]) == (getattr(module, name, 0) > 0)
    for name, value in {**sown[LOSSES], **sown.get(REPORTS, {})}.items():
        if name != 'choice_bias':
            assert value == pytest.approx(told[name], rel=1e-4, abs=1e-7), name


def test_full_experts_drop_what_comes_later_and_count_it() -> None:
    """A quarter of the places that are needed: three quarters of the choices at least."""
    module, params, x = layer('switch(experts=5, top_k=5, hidden=4, capacity=0.25)')
    out, sown = module.apply({'params': params}, x, mutable=[REPORTS])
    # Every token chooses every expert, which takes ⌈0.25·7⌉ = 2.
    assert sown[REPORTS]['dropped'] == pytest.approx(5 / 7)
    assert not np.any(out[:, 2:])
    every = layer('moe(experts=5, top_k=5, hidden=4)')[0].apply({'params': params}, x)
    np.testing.assert_allclose(out[:, :2], every[:, :2], **CLOSE)


@pytest.mark.parametrize('spec', [s for s in SPECS if s.startswith('switch')])
def test_a_later_token_never_takes_the_place_of_an_earlier_one(spec: str) -> None:
    module, params, x = layer(spec)
    run = quick_jit(lambda x: module.apply({'params': params}, x))
    for t in range(1, L):
        moved = run(x.at[:, t].multiply(-1.0)) - run(x)
        assert not np.any(moved[:, :t])
        assert np.any(moved[:, t:])


@pytest.mark.parametrize('spec', SPECS)
def test_rows_are_served_each_by_itself(spec: str) -> None:
    module, params, x = layer(spec)
    run = quick_jit(lambda x: module.apply({'params': params}, x))
    np.testing.assert_allclose(run(x)[1:], run(x[1:]), rtol=1e-5, atol=1e-6)


def test_experts_that_choose_look_ahead() -> None:
    """So a causal mask has to refuse them (tests/models/test_model.py)."""
    module, params, x = layer('expert_choice(experts=5, hidden=4, capacity=0.7)')
    run = quick_jit(lambda x: module.apply({'params': params}, x))
    assert np.any(run(x.at[:, -1].multiply(9.0))[:, :-1] != run(x)[:, :-1])


@pytest.mark.parametrize(
    ('spec', 'share'),
    [
        ('moe(experts=8, top_k=2)', 1 / 4),
        ('switch(experts=8)', 1 / 8),
        ('switch(experts=8, top_k=2, capacity=0.5)', 1 / 8),
        ('expert_choice(experts=8, capacity=3.0)', 3 / 8),
    ],
)
def test_a_token_meets_a_share_of_the_weights(spec: str, share: float) -> None:
    """And as many hidden units as `gated` has, 256 at width 96, or a few more."""
    module = make(FFNS, spec, 'ffn')
    assert module.active_share() == share
    start = nn.init(lambda m, x: m(x), module)
    boxed = jax.eval_shape(start, jax.random.key(0), jnp.ones((1, 8, 96)))['params']
    hidden = boxed['in']['weight'].value.shape[2]
    assert 256 <= module.met() * hidden < 256 + 8 * module.met()


def every_expert(module: Any, params: Any, x: jax.Array) -> jax.Array:
    """All experts on all tokens, with a gate of 0 for those that were not chosen."""
    prob = jax.nn.softmax(x @ params['router']['weight'])
    if isinstance(module, ExpertChoice):
        places = int(np.ceil(module.capacity * L / E))
        gate = jnp.where(prob >= jnp.sort(prob, 1)[:, L - places, None], prob, 0)
    else:
        gate = jnp.where(prob >= jnp.sort(prob, -1)[..., E - module.top_k, None], prob, 0)
        gate = gate / gate.sum(-1, keepdims=True) if module.top_k > 1 else gate
    w = {k: params[k]['weight'] for k in ('gate', 'in', 'out')}
    into = lambda k: jnp.einsum('bld,edf->blef', x, w[k])  # noqa: E731
    return jnp.einsum('blef,efd,ble->bld', jax.nn.silu(into('gate')) * into('in'), w['out'], gate)


@pytest.mark.parametrize('spec', [*SPECS[:2], SPECS[7], SPECS[8]])
def test_gradients_are_those_of_a_sum_over_all_experts(spec: str) -> None:
    module, params, x = layer(spec)
    layers = (lambda p, x: module.apply({'params': p}, x), functools.partial(every_expert, module))
    got, want = (
        quick_jit(jax.grad(lambda w, f=f: jnp.sum(jnp.sin(f(*w)))))((params, x)) for f in layers
    )
    assert_trees_close(got[0], want[0], **CLOSE)
    np.testing.assert_allclose(got[1], want[1], **CLOSE)


def test_the_bias_of_the_choice_is_pulled_by_the_load_and_changes_no_loss() -> None:
    module, params, x = layer(SPECS[4])
    load = numpy_moe(module, params, np.asarray(x, np.float64))[1]['load']

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


@pytest.mark.parametrize('name', ['moe', 'switch', 'expert_choice'])
def test_cost_follows_the_experts_that_a_token_meets(name: str) -> None:
    """Forward and backward of 32 experts against 4, with an eighth of the weights, and `gated`."""
    rest = ', top_k=2, capacity=1.0' if name == 'switch' else ''

    def flops(spec: str) -> float:
        module = make(FFNS, spec, 'ffn')
        x = jax.ShapeDtypeStruct((4, 256, 64), jnp.float32)
        start = nn.init(lambda m, x: m(x), module)
        params = nn.unbox(jax.eval_shape(start, jax.random.key(0), x))['params']
        loss = lambda p, x: jnp.sum(module.apply({'params': p}, x) ** 2)  # noqa: E731
        compiled = quick_jit(jax.grad(loss, (0, 1))).lower(params, x).compile()
        return compiled.cost_analysis()['flops']

    few, many = (flops(f'{name}(experts={experts}{rest})') for experts in (4, 32))
    assert many < 1.1 * few and few < 1.3 * flops('gated')


@pytest.mark.parametrize('role', ['linear', 'residual'])
def test_std_of_an_experts_weight_counts_the_inputs_of_one_expert(role: str) -> None:
    init = make(INITS, 'fan_in', 'init', depth=8)
    module = ExpertWeight(16, 64, 64, ('embed', 'mlp'), role, init)
    start = nn.init(lambda m: m(), module)
    (weight,) = jax.tree.leaves(nn.unbox(quick_jit(start)(jax.random.key(0))))
    # 65,536 draws: the measured std is within 1.4 % at 5 sigma.
    assert weight.std() == pytest.approx(1 / 8 / (4 if role == 'residual' else 1), rel=0.014)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('moe(experts=2, top_k=3)', "model.ffn='moe.* needs top_k=3 experts .* but experts=2"),
        ('expert_choice(experts=2, capacity=3.0)', 'gives a token 3.0 experts, but experts=2'),
        ('switch(experts=2, top_k=3)', 'needs top_k=3 experts .* but experts=2'),
        ('moe("silo")', "unknown activation 'silo'. Did you mean 'silu'"),
        ('moe(experts=0)', 'must be positive'),
    ],
)
def test_impossible_mixtures_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_model(ffn=spec)
