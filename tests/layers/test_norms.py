"""Norms against PyTorch, and their written-out backward pass against autodiff."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers.norms import NORMS, standardise
from bigmodel.specs import make
from tests.golden.values import golden

# Golden values are float64; float32 rounds at 6e-8, summed over 10 features or 12 rows.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
CASES = {
    'rmsnorm': 'rmsnorm(eps=1e-6)',
    'layernorm': 'layernorm(eps=1e-5)',
    'layernorm_no_bias': 'layernorm(bias=False)',
}


def test_every_norm_has_a_golden_case() -> None:
    assert {spec.split('(')[0] for spec in CASES.values()} | {'none', 'dyt'} == set(NORMS)


@pytest.mark.parametrize('name', CASES)
def test_values_and_gradients_are_pytorchs(name: str) -> None:
    values = golden(name)
    module = make(NORMS, CASES[name], 'norm')
    params = {k: jnp.asarray(values[k]) for k in ('scale', 'bias') if k in values}

    def run(params: Any, x: jax.Array) -> jax.Array:
        return module.apply({'params': params}, x)

    output, vjp = jax.vjp(run, params, values['x'])
    np.testing.assert_allclose(output, values['output'], **CLOSE)
    d_params, d_x = vjp(jnp.asarray(values['cotangent']))
    np.testing.assert_allclose(d_x, values['d_x'], **CLOSE)
    for key, gradient in d_params.items():
        np.testing.assert_allclose(gradient, values[f'd_{key}'], **CLOSE)


@pytest.mark.parametrize('name', NORMS)
def test_output_keeps_the_dtype_and_statistics_are_float32(name: str) -> None:
    module = make(NORMS, name, 'norm')
    x = jnp.asarray(100 + np.random.default_rng(0).standard_normal((4, 64)), jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    got = module.apply(variables, x)
    assert got.dtype == jnp.bfloat16
    exact = module.apply(variables, x.astype(jnp.float32))
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize('name', NORMS)
def test_parameters_start_as_the_identity_and_name_their_axis(name: str) -> None:
    module = make(NORMS, name, 'norm', axis='head_dim')
    params = module.init(jax.random.key(0), jnp.ones((2, 5))).get('params', {})
    params.pop('alpha', None)  # dyt's one number
    for path, box in params.items():
        assert box.names == ('head_dim',)
        np.testing.assert_array_equal(box.value, np.full(5, {'scale': 1, 'bias': 0}[path]))


def test_dynamic_tanh_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.standard_normal(s) for s in ((2, 3, 5), 5, 5))
    module = make(NORMS, 'dyt(alpha=0.7)', 'norm')
    assert module.init(jax.random.key(0), jnp.asarray(x))['params']['alpha'].value == jnp.float32(
        0.7
    )
    params = {'alpha': jnp.float32(0.3), 'scale': jnp.asarray(scale), 'bias': jnp.asarray(bias)}
    got = module.apply({'params': params}, jnp.asarray(x))
    np.testing.assert_allclose(got, np.tanh(0.3 * x) * scale + bias, rtol=1e-5, atol=1e-6)


def test_rmsnorm_that_adds_one_is_rmsnorm_with_a_scale_one_larger() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5)))
    moved, plain = (make(NORMS, f'rmsnorm(plus_one={b})', 'norm') for b in (True, False))
    start = moved.init(jax.random.key(0), x)['params']['scale'].value
    np.testing.assert_array_equal(start, np.zeros(5))
    scale = jnp.arange(5.0)
    got = moved.apply({'params': {'scale': scale}}, x)
    want = plain.apply({'params': {'scale': 1 + scale}}, x)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('centre', [False, True])
def test_written_out_backward_is_autodiffs(centre: bool) -> None:
    def plain(x: jax.Array, scale: jax.Array) -> jax.Array:
        x = x - x.mean(-1, keepdims=True) if centre else x
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, scale, dy = (jnp.asarray(rng.standard_normal(s)) for s in ((3, 5, 8), (8,), (3, 5, 8)))
        got, want = (
            jax.vjp(f, x, scale) for f in (lambda x, s: standardise(x, s, 1e-5, centre), plain)
        )
        np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
        for a, b in zip(got[1](dy), want[1](dy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
