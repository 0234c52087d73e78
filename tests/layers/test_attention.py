"""The attention module against PyTorch; its options against each other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.attention import Attention
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.kernels import KERNELS
from bigmodel.layers.masks import MASKS, Causal
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.positions import POSITIONS, Rope
from bigmodel.layers.weights import WEIGHTS
from bigmodel.specs import make
from tests.golden.values import golden
from tests.small import CPU_KERNELS

# Golden values are float64; four products of up to 32 float32 terms in a row.
CLOSE = {'rtol': 2e-5, 'atol': 2e-5}
B, L, D, H, G, K = 2, 6, 32, 4, 2, 8


def context(length: int = L) -> Context:
    here = Coordinates.of(length)
    return Context(here, here, aligned=True)


def context_of(module: nn.Module, x: jax.Array) -> Context:
    """That of a first layer: what earlier ones would have handed on is zero."""
    carried = {k: jnp.zeros((*x.shape[:2], *n), x.dtype) for k, n in module.carries().items()}
    return context(x.shape[1]).replace(carried=carried)


def attention(**fields: Any) -> Attention:
    return Attention(**({'num_heads': H, 'num_kv_heads': G, 'head_dim': K} | fields))


def random_params(module: Attention) -> Any:
    """Random values for every parameter, biases and scales too."""
    init = nn.init(lambda m, x: m(x, context_of(module, x)), module)
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), jnp.ones((B, L, D))))['params']
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape)), shapes)


def run(module: Attention, params: Any, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return compiled(module)(params, x, {} if key is None else {'dropout': key})


@functools.cache
def compiled(module: Attention) -> Any:
    return jax.jit(lambda p, x, r: module.apply({'params': p}, x, context_of(module, x), rngs=r))


def x_BLD() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((B, L, D)), jnp.float32)


def torch_params(values: dict[str, jax.Array]) -> Any:
    """PyTorch's stacked (3·D, D) projection as q, k and v of shape (D, H, K)."""
    weights = jnp.split(values['in_proj_weight'], 3)
    biases = jnp.split(values['in_proj_bias'], 3)
    params = {
        name: {'weight': w.T.reshape(D, H, K), 'bias': b.reshape(H, K)}
        for name, w, b in zip('qkv', weights, biases, strict=True)
    }
    out = {'weight': values['out_proj_weight'].T.reshape(H, K, D), 'bias': values['out_proj_bias']}
    return params | {'out': out}


@pytest.mark.parametrize('kernel', CPU_KERNELS)
@pytest.mark.parametrize('mask', ['full', 'causal'])
def test_attention_is_pytorchs_module(mask: str, kernel: str) -> None:
    values = golden(f'mha/{mask}')
    module = attention(
        num_kv_heads=H,
        mask=make(MASKS, mask, 'mask'),
        kernel=KERNELS[kernel](),
        bias=True,
        out_bias=True,
    )

    def loss(values: dict[str, jax.Array]) -> jax.Array:
        return run(module, torch_params(values), values['x'])

    inputs = {k: values[k] for k in values if f'd_{k}' in values}
    output, vjp = jax.vjp(jax.jit(loss), inputs)
    np.testing.assert_allclose(output, values['output'], **CLOSE)
    for name, gradient in vjp(values['cotangent'])[0].items():
        np.testing.assert_allclose(gradient, values[f'd_{name}'], rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize('bias', [False, True])
def test_fused_qkv_is_the_three_projections_stacked(bias: bool) -> None:
    separate, fused = attention(bias=bias), attention(bias=bias, fused_qkv=True)
    params = random_params(separate)
    heads = {'weight': 1, 'bias': 0}  # the dim of heads
    stacked = {
        leaf: jnp.concatenate([params[n][leaf] for n in 'qkv'], heads[leaf]) for leaf in params['q']
    }
    moved = {'qkv': stacked, 'out': params['out']}
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, random_params(fused))
    # The same sums of 32 terms in another order.
    got, want = run(fused, moved, x_BLD()), run(separate, params, x_BLD())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kernel', CPU_KERNELS)
def test_grouped_queries_are_full_attention_with_repeated_heads(kernel: str) -> None:
    grouped = attention(kernel=KERNELS[kernel](), position=Rope())
    params = random_params(grouped)
    repeated = params | {n: {'weight': jnp.repeat(params[n]['weight'], H // G, 1)} for n in 'kv'}
    want = run(attention(num_kv_heads=H, position=Rope()), repeated, x_BLD())
    np.testing.assert_allclose(run(grouped, params, x_BLD()), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('norm', ['rmsnorm', 'layernorm', 'rmsnorm(eps=0.1)'])
def test_qk_norm_acts_on_each_head_before_rotation(norm: str) -> None:
    module = attention(qk_norm=norm, position=Rope())
    params = random_params(module)
    assert params['q_norm']['scale'].shape == params['k_norm']['scale'].shape == (K,)

    def normed(x: jax.Array, p: Any) -> jax.Array:
        x = x - x.mean(-1, keepdims=True) if norm == 'layernorm' else x
        eps = 0.1 if 'eps' in norm else 1e-5 if norm == 'layernorm' else 1e-6
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * p['scale'] + p.get('bias', 0)

    x = x_BLD()
    q, k, v = (jnp.einsum('BLD,DHK->BLHK', x, params[n]['weight']) for n in 'qkv')
    q, k = normed(q, params['q_norm']), normed(k, params['k_norm'])
    q, k = Rope().rotate(q, k, context())
    o = KERNELS['reference']()(q, k, v, Causal(), context())
    want = jnp.einsum('BLHK,HKD->BLD', o, params['out']['weight'])
    np.testing.assert_allclose(run(module, params, x), want, **CLOSE)


@pytest.mark.parametrize('position', [name for name in POSITIONS if name != 'cope'])
def test_rotation_is_of_queries_and_keys_alone(position: str) -> None:
    part = make(POSITIONS, position, 'position', max_length=L)
    module = attention(position=part)
    params = random_params(module)
    x = x_BLD()
    q, k, v = (jnp.einsum('BLD,DHK->BLHK', x, params[n]['weight']) for n in 'qkv')
    o = KERNELS['reference']()(*part.rotate(q, k, context()), v, Causal(), context())
    want = jnp.einsum('BLHK,HKD->BLD', o, params['out']['weight'])
    np.testing.assert_allclose(run(module, params, x), want, **CLOSE)


@pytest.mark.parametrize('mask', ['causal', 'window(3)'])
def test_cope_is_the_formula_in_a_layer_of_its_own_table(mask: str) -> None:
    """Golovneva et al. 2024, eqs. 3 to 6, by loops; counts stop at 2."""
    part, see = make(POSITIONS, 'cope(num_positions=3)', 'position'), make(MASKS, mask, 'mask')
    module = attention(position=part, mask=see)
    params, x = random_params(module), x_BLD()
    q, k, v = (np.einsum('BLD,DHK->BLHK', x, params[n]['weight']) for n in 'qkv')
    e, seen = params['position']['counts']['table'], see(context().queries, context().keys)[0]
    o = np.zeros_like(q)
    for b, i, h in np.ndindex(*q.shape[:3]):
        g = h // (q.shape[2] // k.shape[2])
        dots = k[b, :, g] @ q[b, i, h] / np.sqrt(q.shape[-1])
        gates = seen[i] / (1 + np.exp(-dots))
        values = e @ q[b, i, h]
        counts = [min(sum(gates[j : i + 1]), 2) for j in range(len(dots))]
        logits = dots + np.interp(counts, range(3), values)
        weights = np.where(seen[i], np.exp(logits), 0)
        o[b, i, h] = weights / weights.sum() @ v[b, :, g]
    want = jnp.einsum('BLHK,HKD->BLD', o, params['out']['weight'])
    np.testing.assert_allclose(run(module, params, x), want, **CLOSE)


def test_every_weight_names_its_axes() -> None:
    module = attention(bias=True, out_bias=True, qk_norm='rmsnorm')
    boxed = jax.eval_shape(
        nn.init(lambda m, x: m(x, context()), module), jax.random.key(0), x_BLD()
    )['params']
    names = {
        f'{m}/{leaf}': box.names for m, leaves in boxed.items() for leaf, box in leaves.items()
    }
    assert names == {
        'q/weight': ('embed', 'heads', 'head_dim'),
        'q/bias': ('heads', 'head_dim'),
        'k/weight': ('embed', 'kv_heads', 'head_dim'),
        'k/bias': ('kv_heads', 'head_dim'),
        'v/weight': ('embed', 'kv_heads', 'head_dim'),
        'v/bias': ('kv_heads', 'head_dim'),
        'out/weight': ('heads', 'head_dim', 'embed'),
        'out/bias': ('embed',),
        'q_norm/scale': ('head_dim',),
        'k_norm/scale': ('head_dim',),
    }


def test_dropout_of_weights_is_on_only_with_an_rng() -> None:
    plain, dropping = attention(), attention(dropout=0.5)
    params, x = random_params(plain), x_BLD()
    np.testing.assert_array_equal(run(dropping, params, x), run(plain, params, x))
    once, again = (run(dropping, params, x, jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - run(dropping, params, x, jax.random.key(1))).max() > 0.01
    assert np.abs(once - run(plain, params, x)).max() > 0.01


def test_gate_multiplies_the_heads_output() -> None:
    plain, gated = attention(), attention(gate=True)
    params, x = random_params(gated), x_BLD()
    assert params['gate']['weight'].shape == (D, H, K)
    q, k, v = (jnp.einsum('BLD,DHK->BLHK', x, params[n]['weight']) for n in 'qkv')
    o = KERNELS['reference']()(q, k, v, Causal(), context())
    o = o / (1 + jnp.exp(-jnp.einsum('BLD,DHK->BLHK', x, params['gate']['weight'])))
    want = jnp.einsum('BLHK,HKD->BLD', o, params['out']['weight'])
    np.testing.assert_allclose(run(gated, params, x), want, **CLOSE)
    assert np.abs(run(plain, {n: params[n] for n in ('q', 'k', 'v', 'out')}, x) - want).max() > 0.01


@pytest.mark.parametrize('spec', ['softmax(cap=2)', 'off_by_one', 'sinks', 'sigmoid'])
def test_weights_are_handed_to_the_kernel(spec: str) -> None:
    module = attention(weights=spec, max_length=16)
    params, x = random_params(module), x_BLD()
    part = make(WEIGHTS, spec, 'weights', num_heads=H, max_length=16)
    weights = part.apply({'params': params.get('weights', {})})
    q, k, v = (jnp.einsum('BLD,DHK->BLHK', x, params[n]['weight']) for n in 'qkv')
    o = KERNELS['reference']()(q, k, v, Causal(), context(), weights=weights)
    want = jnp.einsum('BLHK,HKD->BLD', o, params['out']['weight'])
    np.testing.assert_allclose(run(module, params, x), want, **CLOSE)
    assert np.abs(run(attention(), params, x) - want).max() > 0.01


@pytest.mark.parametrize('name', MIXERS)
def test_mixers_keep_shape_and_compute_in_the_given_dtype(name: str) -> None:
    fields = {'num_heads': H, 'num_kv_heads': G, 'head_dim': K, 'dtype': jnp.bfloat16}
    module = make(MIXERS, name, 'mixer', **fields)
    x = x_BLD().astype(jnp.bfloat16)
    y = jax.eval_shape(lambda p, x: run(module, p, x), random_params(module), x)
    assert (y.shape, y.dtype) == (x.shape, jnp.bfloat16)
