"""Linear and Embed, their products with written-out backward passes, dropout, initial weights."""

import math
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.dropout import Dropout
from bigmodel.layers.initializers import INITS
from bigmodel.layers.linear import Embed, Linear
from bigmodel.layers.products import contract, contract_groups
from bigmodel.specs import make
from tests.small import quick_jit

DEPTH, FAN_IN = 8, 64
# The standard deviation of each role at depth 8 and fan-in 64. A new initialisation needs a line.
STDS = {
    'normal(std=0.03)': {'embed': 0.03, 'linear': 0.03, 'residual': 0.03, 'head': 0.03},
    'gpt2': {'embed': 0.02, 'linear': 0.02, 'residual': 0.02 / 4, 'head': 0.02},
    'mup(base_width=16)': {'embed': 0.02, 'linear': 1 / 8, 'residual': 1 / 32, 'head': 1 / 4},
    'gpt2(std=0.5)': {'embed': 0.5, 'linear': 0.5, 'residual': 0.5 / 4, 'head': 0.5},
    'fan_in': {'embed': 0.02, 'linear': 1 / 8, 'residual': 1 / 32, 'head': 1 / 8},
    'fan_in(scale=2, embed=1.0)': {
        'embed': 1.0,
        'linear': 1 / 4,
        'residual': 1 / 16,
        'head': 1 / 4,
    },
}


@pytest.mark.parametrize(('lead', 'inner', 'outer'), [(2, 1, 1), (2, 1, 2), (2, 2, 1), (1, 1, 3)])
def test_product_and_its_backward_are_einsums(lead: int, inner: int, outer: int) -> None:
    letters = string.ascii_lowercase
    a, b, c = letters[:lead], letters[lead : lead + inner], letters[lead + inner :][:outer]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        sizes = dict(zip(letters, (3, 2, 4, 5, 6, 7), strict=False))
        x, w, dy = (
            jnp.asarray(rng.standard_normal([sizes[i] for i in s])) for s in (a + b, b + c, a + c)
        )
        output, vjp = jax.vjp(lambda x, w: contract(x, w, inner), x, w)
        dx, dw = vjp(dy)
        np.testing.assert_allclose(
            output, jnp.einsum(f'{a + b},{b + c}->{a + c}', x, w), rtol=1e-12
        )
        np.testing.assert_allclose(dx, jnp.einsum(f'{a + c},{b + c}->{a + b}', dy, w), rtol=1e-12)
        np.testing.assert_allclose(dw, jnp.einsum(f'{a + b},{a + c}->{b + c}', x, dy), rtol=1e-12)


GROUPS = [(5, 0, 9, 2, 0), (0, 0, 0, 0, 16), (16, 0, 0, 0, 0), (3, 3, 4, 3, 3), (90, 1, 0, 8, 1)]


@pytest.mark.parametrize('sizes', GROUPS, ids=str)
def test_products_of_groups_and_their_backward_are_a_loop_over_groups(sizes: tuple) -> None:
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s) for s in ((sum(sizes), 6), (5, 6, 7), (sum(sizes), 7)))
    ends = np.cumsum(sizes)
    with jax.enable_x64(True):
        groups = jnp.asarray(sizes, jnp.int32)
        run = jax.jit(lambda x, w: jax.vjp(lambda *a: contract_groups(*a, groups), x, w))
        output, vjp = run(jnp.asarray(x), jnp.asarray(w))
        dx, dw = vjp(jnp.asarray(dy))
    for e, (begin, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        here = slice(begin, end)
        np.testing.assert_allclose(output[here], x[here] @ w[e], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dx[here], dy[here] @ w[e].T, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dw[e], x[here].T @ dy[here], rtol=1e-10, atol=1e-12)


def test_products_of_groups_cost_what_active_rows_cost() -> None:
    """Eight times as many matrices, the same FLOPs and at most 1.3 times those of one product."""

    def flops(groups: int) -> float:
        shapes = ((4096, 128), (groups, 128, 128), (groups,))
        kinds = (jnp.float32, jnp.float32, jnp.int32)
        args = [jax.ShapeDtypeStruct(s, k) for s, k in zip(shapes, kinds, strict=True)]
        # Indices cost some arithmetic too, which a narrower product would not hide.
        return jax.jit(contract_groups).lower(*args).compile().cost_analysis()['flops']

    assert flops(32) < 1.1 * flops(4)
    assert flops(32) < 1.3 * 2 * 4096 * 128 * 128


def test_linear_contracts_the_last_dims_and_adds_its_bias() -> None:
    module = Linear((5, 6), ('heads', 'head_dim'), ('embed', 'mlp'), bias=True)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    boxed = nn.init(lambda m, x: m(x), module)(jax.random.key(0), x)['params']
    assert boxed['weight'].names == ('heads', 'head_dim', 'embed', 'mlp')
    assert boxed['bias'].names == ('embed', 'mlp')
    params = nn.unbox(boxed)
    params['bias'] = jnp.arange(30.0).reshape(5, 6)
    want = jnp.einsum('bij,ijkl->bkl', x, params['weight']) + params['bias']
    np.testing.assert_allclose(module.apply({'params': params}, x), want, rtol=1e-5, atol=1e-5)


def test_weights_are_float32_and_products_in_the_compute_dtype() -> None:
    module = Linear((5,), ('embed',), ('mlp',), bias=True, dtype=jnp.bfloat16)
    x = jnp.ones((2, 4))
    params = nn.unbox(nn.init(lambda m, x: m(x), module)(jax.random.key(0), x))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert module.apply(params, x).dtype == jnp.bfloat16


def test_embed_looks_up_rows_and_has_them_as_columns() -> None:
    module = Embed(7, 4)
    ids = jnp.array([[0, 6, 3]])
    variables = nn.unbox(nn.init(lambda m, i: m(i), module)(jax.random.key(0), ids))
    table = variables['params']['table']
    np.testing.assert_array_equal(module.apply(variables, ids), table[ids])
    got = module.apply(variables, jnp.bfloat16, method='transposed')
    np.testing.assert_array_equal(got, table.T.astype(jnp.bfloat16))


def test_every_initialisation_has_its_numbers() -> None:
    assert {spec.split('(')[0] for spec in STDS} == set(INITS)


@pytest.mark.parametrize('role', ['linear', 'residual', 'head'])
@pytest.mark.parametrize('spec', STDS)
def test_measured_std_of_a_weight(spec: str, role: str) -> None:
    init = make(INITS, spec, 'init', depth=DEPTH, width=FAN_IN)
    module = Linear((16, 64), ('embed',), ('heads', 'head_dim'), True, role, init)
    start = nn.init(lambda m, x: m(x), module)
    params = nn.unbox(quick_jit(start)(jax.random.key(0), jnp.ones((1, FAN_IN))))['params']
    # 65,536 draws: the measured std is within 1.4 % at 5 sigma.
    assert params['weight'].std() == pytest.approx(STDS[spec][role], rel=0.014)
    assert params['weight'].mean() == pytest.approx(0, abs=5 * STDS[spec][role] / 256)
    assert not params['bias'].any()


@pytest.mark.parametrize('spec', STDS)
def test_measured_std_of_a_table(spec: str) -> None:
    init = make(INITS, spec, 'init', depth=DEPTH, width=FAN_IN)
    start = nn.init(lambda m, i: m(i), Embed(1024, FAN_IN, init=init))
    (table,) = jax.tree.leaves(nn.unbox(quick_jit(start)(jax.random.key(0), jnp.zeros((1,), int))))
    assert table.std() == pytest.approx(STDS[spec]['embed'], rel=0.014)


def test_fan_in_counts_all_contracted_dims() -> None:
    module = Linear((512,), ('heads', 'head_dim'), ('embed',))
    params = nn.init(lambda m, x: m(x), module)(jax.random.key(0), jnp.ones((1, 8, 32)))
    (weight,) = jax.tree.leaves(params)
    assert weight.std() == pytest.approx(1 / math.sqrt(8 * 32), rel=0.014)


def test_dropout_is_on_only_with_an_rng_and_keeps_the_mean() -> None:
    x = jnp.full((500, 400), 2.0)
    module = Dropout(0.3)
    np.testing.assert_array_equal(module.apply({}, x), x)
    once, again = (module.apply({}, x, rngs={'dropout': jax.random.key(0)}) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.any(once != module.apply({}, x, rngs={'dropout': jax.random.key(1)}))
    np.testing.assert_allclose(np.unique(once), [0, 2 / 0.7], rtol=1e-6)
    # 200,000 draws: the share of zeros is within 0.5 % at 5 sigma.
    assert (once == 0).mean() == pytest.approx(0.3, abs=0.005)


def test_no_dropout_ignores_the_rng() -> None:
    x = jnp.ones((3, 4))
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, rngs={'dropout': jax.random.key(0)}), x)
