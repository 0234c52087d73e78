"""Every mixer but attention against its formula, one token after the other in numpy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import params as params_lib
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.delta import unit_inverse
from bigmodel.layers.long_conv import convolve
from bigmodel.layers.mixers import MIXERS
from bigmodel.specs import make

# Recurrences over up to 7 tokens of float32 sums, against float64.
CLOSE = {'rtol': 1e-4, 'atol': 2e-5}
B, L, D, H, K = 2, 11, 6, 2, 3
# A document that ends within a chunk, one that spans chunks, one of a single token; padding first.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3], [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2]])
STARTS = np.array([[i == 0 or r[i] != r[i - 1] for i in range(L)] for r in SEGMENTS])

Params = dict[str, Any]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def linear(p: Params, x: np.ndarray) -> np.ndarray:
    return np.tensordot(x, p['weight'], 1) + p.get('bias', 0)


def out(p: Params, y: np.ndarray) -> np.ndarray:
    n = p['out']['weight'].ndim - 1
    return np.tensordot(y, p['out']['weight'], n)


def rms(x: np.ndarray, p: Params) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p['scale']


def conv(p: Params, x: np.ndarray) -> np.ndarray:
    """Of one document."""
    y = np.zeros_like(x) + p['bias']
    for t in range(len(x)):
        for j in range(min(len(p['weight']), t + 1)):
            y[t] += p['weight'][j] * x[t - j]
    return y


def rglru(p: Params, x: np.ndarray) -> np.ndarray:
    u, h, hs = conv(p['conv'], linear(p['in'], x)), 0.0, []
    for u_t in u:
        r, i = (
            sigmoid(np.einsum('hk,hkj->hj', u_t, p[n]['weight']) + p[n]['bias'])
            for n in ('forget', 'input')
        )
        a = sigmoid(p['decay']['scale']) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * i * u_t
        hs.append(h)
    return out(p, gelu(linear(p['gate'], x)) * np.array(hs))


def linear_attention(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, v = (linear(p[n], x) for n in 'qkv')
    q, k = (np.where(z > 0, z + 1, np.exp(z)) for z in (q, k))
    w = np.tril(np.einsum('thk,shk->hts', q, k))
    return out(p, np.einsum('hts,shk->thk', w / w.sum(-1, keepdims=True), v))


def retention(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, v = (linear(p[n], x) for n in 'qkv')
    decay, s, o = np.array([1 - 2**-5, 1 - 2**-9]), np.zeros((H, K, K)), []
    for t in range(len(x)):
        s = decay[:, None, None] * s + np.einsum('hk,hv->hkv', k[t], v[t])
        o.append(np.einsum('hk,hkv->hv', q[t], s) / np.sqrt(K))
    return out(p, silu(linear(p['gate'], x)) * rms(np.array(o), p['norm']))


def convolved(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return silu(conv(p[f'{name}_conv'], linear(p[name], x)))


def gated_deltanet(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, v = (convolved(p, n, x) for n in 'qkv')
    q, k = (z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-6) for z in (q, k))
    beta = sigmoid(linear(p['beta'], x))
    a = np.exp(
        -np.exp(p['log_rate']['scale']) * softplus(linear(p['step'], x) + p['step_bias']['scale'])
    )
    s, o = np.zeros((H, K, K)), []
    for t in range(len(x)):
        for h in range(H):
            kk = np.outer(k[t, h], k[t, h])
            s[h] = a[t, h] * (np.eye(K) - beta[t, h] * kk) @ s[h]
            s[h] += beta[t, h] * np.outer(k[t, h], v[t, h])
        o.append(np.einsum('hk,hkv->hv', q[t], s) / np.sqrt(K))
    return out(p, silu(linear(p['gate'], x)) * rms(np.array(o), p['norm']))


def mamba2(p: Params, x: np.ndarray) -> np.ndarray:
    u, b, c = (convolved(p, n, x) for n in ('in', 'b', 'c'))
    step = softplus(linear(p['step'], x) + p['step_bias']['scale'])
    h, y = np.zeros((2 * H, b.shape[-1], K)), []
    for t in range(len(x)):
        a = np.exp(-np.exp(p['log_rate']['scale']) * step[t])
        h = a[:, None, None] * h + np.einsum('h,n,hk->hnk', step[t], b[t], u[t])
        y.append(np.einsum('n,hnk->hk', c[t], h) + p['skip']['scale'][:, None] * u[t])
    gated = np.array(y) * silu(linear(p['gate'], x))
    return out(p, rms(gated.reshape(len(x), -1), p['norm']).reshape(gated.shape))


def gru(p: Params, x: np.ndarray) -> np.ndarray:
    h, hs = np.zeros(p['out']['weight'].shape[0]), []
    for xs in linear(p['in'], x):
        us = linear(p['cell']['hidden'], h)
        r, z = sigmoid(xs[:2] + us[:2])
        h = (1 - z) * np.tanh(xs[2] + r * us[2]) + z * h
        hs.append(h)
    return out(p, np.array(hs))


def lstm(p: Params, x: np.ndarray) -> np.ndarray:
    h, c, hs = np.zeros(p['out']['weight'].shape[0]), 0.0, []
    for xs in linear(p['in'], x):
        i, f, g, o = xs + linear(p['cell']['hidden'], h)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hs.append(h)
    return out(p, np.array(hs))


def short_conv(p: Params, x: np.ndarray) -> np.ndarray:
    b, c, u = (linear(p[n], x) for n in 'bcu')
    return out(p, c * conv(p['conv'], b * u))


def gated_conv(p: Params, x: np.ndarray) -> np.ndarray:
    def full(p: Params) -> np.ndarray:
        y = np.zeros((len(x), D)) + p['bias']
        for t in range(len(x)):
            for j in range(min(4, t + 1)):
                y[t] += x[t - j] @ p['weight'][:, j]
        return y

    return out(p, full(p['value']) * sigmoid(full(p['gate'])))


def long_conv(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, v = (conv(p[f'{n}_conv'], linear(p[n], x)) for n in 'qkv')
    t = np.arange(len(x))[:, None]
    angle = t / 1e4 ** (np.arange(16) / 16)
    h = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(len(x), 32)
    h = np.sin(linear(p['filter']['mid'], np.sin(linear(p['filter']['in'], h))))
    a = np.log(100) / 1024 * np.array([1 / 1.5, 1 / 0.3])
    h = linear(p['filter']['out'], h) * np.exp(-a * t) * np.sqrt(1 - np.exp(-2 * a))
    z, y = k * v, np.zeros_like(q)
    for i in range(len(x)):
        y[i] = p['skip']['scale'] * z[i] + np.einsum('sh,shk->hk', h[: i + 1], z[i::-1])
    return out(p, q * y)


REFERENCES: dict[str, Callable[[Params, np.ndarray], np.ndarray]] = {
    'rglru': rglru,
    'linear_attention': linear_attention,
    'retention': retention,
    'gated_deltanet': gated_deltanet,
    'mamba2': mamba2,
    'gru': gru,
    'lstm': lstm,
    'short_conv': short_conv,
    'gated_conv': gated_conv,
    'long_conv': long_conv,
}
CHUNKED = ('rglru', 'linear_attention', 'retention', 'gated_deltanet', 'mamba2', 'long_conv')
SPECS = [
    *REFERENCES,
    *(f'{name}(chunk=4)' for name in CHUNKED),
    *(f'{n}(chunk=1)' for n in CHUNKED),
]


def context(segments: np.ndarray = SEGMENTS) -> Context:
    here = Coordinates.of(L, segment=jnp.asarray(segments))
    return Context(here, here, aligned=True)


@functools.cache
def mixer(spec: str, **fields: Any) -> nn.Module:
    return make(MIXERS, spec, 'mixer', num_heads=H, head_dim=K, **fields)


@functools.cache
def random_params(spec: str) -> Params:
    """Random values for every parameter, biases and scales too."""
    init = nn.init(lambda m, x: m(x, context()), mixer(spec))
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), jnp.ones((B, L, D))))['params']
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(0.7 * rng.standard_normal(s.shape), jnp.float32), shapes
    )


def x_BLD() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((B, L, D)), jnp.float32)


def run(spec: str, params: Params, x: jax.Array, segments: np.ndarray = SEGMENTS) -> jax.Array:
    return jax.jit(lambda p, x: mixer(spec).apply({'params': p}, x, context(segments)))(params, x)


def by_document(reference: Callable, params: Params, x: jax.Array) -> np.ndarray:
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    rows = []
    for row, starts in zip(np.asarray(x, np.float64), STARTS, strict=True):
        documents = np.split(row, np.flatnonzero(starts)[1:])
        rows.append(np.concatenate([reference(params, d) for d in documents]))
    return np.stack(rows)


def test_every_mixer_has_a_reference() -> None:
    with_kernels = {
        'attention',
        'value_residual',
        'differential',
        'mla',
    }  # held in tests of their own
    assert with_kernels | set(REFERENCES) == set(MIXERS)


@pytest.mark.parametrize('spec', SPECS)
def test_mixers_are_their_formula_one_token_after_the_other(spec: str) -> None:
    params, x = random_params(spec), x_BLD()
    want = by_document(REFERENCES[spec.split('(')[0]], params, x)
    np.testing.assert_allclose(run(spec, params, x), want, **CLOSE)


@pytest.mark.parametrize('spec', SPECS)
@pytest.mark.parametrize('pieces', [(5, 4, 1, 1), (1,) * L], ids=['pieces', 'single'])
def test_a_row_in_pieces_is_the_row_at_once(spec: str, pieces: tuple[int, ...]) -> None:
    """The state and the tails of convolutions are carried over, and cut at documents."""
    params, x, cache, found, begin = random_params(spec), x_BLD(), {}, [], 0
    keys = Coordinates.of(L, segment=jnp.asarray(SEGMENTS))
    for length in pieces:
        piece = slice(begin, begin + length)
        segment = jnp.asarray(SEGMENTS[:, piece])
        here = Context(Coordinates.of(length, segment=segment, start=begin), keys)
        variables = {'params': params, 'cache': cache}
        y, updated = mixer(spec).apply(variables, x[:, piece], here, mutable=['cache'])
        cache, begin = updated['cache'], begin + length
        found.append(y)
    np.testing.assert_allclose(jnp.concatenate(found, 1), run(spec, params, x), **CLOSE)


@pytest.mark.parametrize('spec', SPECS)
@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_gradients_are_finite_for_every_parameter(spec: str, scale: float) -> None:
    """Also where gates are saturated and exponents are large."""

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return jnp.sum(mixer(spec).apply({'params': params}, x, context()) ** 2)

    params = jax.tree.map(lambda w: scale * w, random_params(spec))
    grads, d_x = jax.jit(jax.grad(loss, (0, 1)))(params, x_BLD())
    assert np.isfinite(d_x).all()
    for path, gradient in params_lib.flatten(grads).items():
        assert np.isfinite(gradient).all(), path
        assert scale > 1 or np.any(gradient), path


@pytest.mark.parametrize('spec', CHUNKED)
def test_gradients_do_not_depend_on_the_chunk(spec: str) -> None:
    def grads(spec: str) -> Any:
        loss = lambda p: jnp.sum(jnp.sin(run(spec, p, x_BLD())))  # noqa: E731
        return params_lib.flatten(jax.grad(loss)(params))

    params = random_params(spec)
    want = grads(spec)
    for path, gradient in grads(f'{spec}(chunk=4)').items():
        np.testing.assert_allclose(gradient, want[path], rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.parametrize('name', REFERENCES)
def test_recurrences_are_float32_whatever_the_dtype(name: str) -> None:
    """What is kept is float32, but for what convolutions keep, which are inputs."""
    x = x_BLD().astype(jnp.bfloat16)
    module = mixer(name, dtype=jnp.bfloat16)
    run = lambda p, x: module.apply({'params': p}, x, context(), mutable=['cache'])  # noqa: E731
    y, updated = jax.eval_shape(run, random_params(name), x)
    assert (y.shape, y.dtype) == (x.shape, jnp.bfloat16)
    for path, kept in params_lib.flatten(updated['cache']).items():
        is_input = path.endswith(('tail', 'inputs'))
        assert kept.dtype == (jnp.bfloat16 if is_input else jnp.float32), path


@pytest.mark.parametrize(('length', 'chunk'), [(11, 3), (64, 64), (65, 64), (150, 2), (150, 7)])
def test_a_long_convolution_in_blocks_of_blocks_is_the_sum_over_pairs(
    length: int, chunk: int
) -> None:
    """Values and gradients; 150 tokens in twos are blocks of 19, cut again."""
    rng = np.random.default_rng(0)
    z_BLHK, h_HL = rng.standard_normal((2, length, 3, 2)), rng.standard_normal((3, length))
    document_BL = np.cumsum(rng.random((2, length)) < 0.05, 1)
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = (document_BL[:, :, None] == document_BL[:, None, :]) & (distance >= 0)

    def pairs(z: jax.Array, h: jax.Array) -> jax.Array:
        return jnp.einsum('bls,hls,bshk->blhk', seen, h[:, np.maximum(distance, 0)], z)

    def blocks(z: jax.Array, h: jax.Array) -> jax.Array:
        return convolve(z, h, jnp.asarray(document_BL, jnp.int32), chunk)

    got, want = (
        jax.jit(lambda *a, f=f: (f(*a), *jax.vjp(f, *a)[1](jnp.cos(f(*a)))))(z_BLHK, h_HL)
        for f in (blocks, pairs)
    )
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)  # sums of up to 300 products


@pytest.mark.parametrize('spec', REFERENCES)
def test_no_step_calls_lapack(spec):
    """jaxlib solves batches in the threads of the host devices: with two on two cores, for ever."""

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return jnp.sum(mixer(spec).apply({'params': params}, x, context()) ** 2)

    text = jax.jit(jax.grad(loss)).lower(random_params(spec), x_BLD()).as_text()
    assert 'stablehlo' in text and 'lapack' not in text


@pytest.mark.parametrize('size', [1, 2, 3, 24, 65])
def test_the_inverse_by_halves_also_of_equal_keys(size):
    rng = np.random.default_rng(0)
    k = rng.standard_normal((2, size, K))
    k[1] = k[1, :1]  # whose powers, which a series would sum, grow like binomials
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    unit = np.eye(size) + 0.9 * np.tril(k @ k.swapaxes(-1, -2), -1)
    found = unit_inverse(jnp.asarray(unit, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.inv(unit), rtol=1e-5, atol=1e-5)
