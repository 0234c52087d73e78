"""Dense feed-forward layers against PyTorch, with every activation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.layers.feedforward import ACTIVATIONS
from bigmodel.layers.ffn import FFNS
from bigmodel.specs import make
from tests.golden.values import golden
from tests.small import exact_jit

# Golden values are float64; sums of 12 float32 products.
CLOSE = {'rtol': 2e-5, 'atol': 2e-5}
# Activations that PyTorch's values leave out: value and derivative.
FORMULAS = {
    'sigmoid': (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
    'relu2': (lambda x: np.where(x > 0, x**2, 0), lambda x: np.where(x > 0, 2 * x, 0)),
}
PATHS = {'in': ('w1', 'b1'), 'gate': ('wg', 'bg'), 'out': ('w2', 'b2')}


@pytest.mark.parametrize('activation', sorted(set(ACTIVATIONS) - set(FORMULAS)))
@pytest.mark.parametrize('name', ['mlp', 'gated'])
def test_values_and_gradients_are_pytorchs(name: str, activation: str) -> None:
    values = golden(f'{name}/{activation}')
    module = make(FFNS, f'{name}(activation={activation!r}, hidden=12, bias=True)', 'ffn')
    params = {
        path: {'weight': jnp.asarray(values[w].T), 'bias': jnp.asarray(values[b])}
        for path, (w, b) in PATHS.items()
        if w in values
    }

    def run(params: Any, x: jax.Array, cotangent: jax.Array) -> tuple:
        output, vjp = jax.vjp(lambda p, x: module.apply({'params': p}, x), params, x)
        return output, vjp(cotangent)

    output, (d_params, d_x) = exact_jit(run)(params, values['x'], values['cotangent'])
    np.testing.assert_allclose(output, values['output'], **CLOSE)
    np.testing.assert_allclose(d_x, values['d_x'], **CLOSE)
    for path, gradient in d_params.items():
        w, b = PATHS[path]
        np.testing.assert_allclose(gradient['weight'].T, values[f'd_{w}'], **CLOSE)
        np.testing.assert_allclose(gradient['bias'], values[f'd_{b}'], **CLOSE)


@pytest.mark.parametrize('name', FORMULAS)
def test_activation_and_its_derivative_are_the_formula(name: str) -> None:
    x = np.linspace(-5, 5, 41)
    value, derivative = FORMULAS[name]
    got, slope = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(jnp.asarray(x))
    np.testing.assert_allclose(got, value(x), rtol=1e-6)
    np.testing.assert_allclose(slope, derivative(x), rtol=1e-5, atol=1e-7)


def shapes_of(spec: str, width: int) -> dict:
    """Abstract parameters of a layer; its own `init` is the initialisation slot."""
    run = nn.init(lambda m, x: m(x), make(FFNS, spec, 'ffn'))
    return jax.eval_shape(run, jax.random.key(0), jnp.ones((1, 1, width)))['params']


@pytest.mark.parametrize(('name', 'hidden'), [('mlp', 384), ('gated', 256)])
def test_default_hidden_size(name: str, hidden: int) -> None:
    """4·width, and 8/3·width = 256: as many parameters, two against three matrices."""
    shapes = shapes_of(name, 96)
    assert shapes['in']['weight'].value.shape == (96, hidden)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2 * 96 * 384


def test_gated_hidden_size_is_rounded_up_to_64() -> None:
    assert shapes_of('gated', 100)['in']['weight'].value.shape == (100, 320)  # 266.7


@pytest.mark.parametrize('name', FFNS)
def test_unknown_activation_names_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match="Did you mean 'gelu_tanh'"):
        shapes_of(f'{name}("gelu_tan")', 8)
