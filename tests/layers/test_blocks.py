"""Residual topologies against compositions by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.norms import RMSNorm
from bigmodel.specs import make

B, L, D = 2, 3, 4


class Affine(nn.Module):
    """A stand-in for a mixer or an FFN: `factor`·x + shift."""

    factor: float

    @nn.compact
    def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        return self.factor * x + self.param('shift', nn.initializers.normal(1.0), (D,))


Part = Callable[[jax.Array], jax.Array]
# What each block computes from x, a mixer f, an FFN g, its norms n by their name and its other
# parameters p. A new block needs a line.
TOPOLOGIES: dict[str, Callable[..., jax.Array]] = {
    'prenorm': lambda x, f, g, n, p: (y := x + f(n['mixer_norm'](x))) + g(n['ffn_norm'](y)),
    'prenorm(scale=0.3)': lambda x, f, g, n, p: (
        (y := x + 0.3 * f(n['mixer_norm'](x))) + 0.3 * g(n['ffn_norm'](y))
    ),
    'postnorm': lambda x, f, g, n, p: n['ffn_norm']((y := n['mixer_norm'](x + f(x))) + g(y)),
    'postnorm(skip=1.7)': lambda x, f, g, n, p: n['ffn_norm'](
        1.7 * (y := n['mixer_norm'](1.7 * x + f(x))) + g(y)
    ),
    'sandwich': lambda x, f, g, n, p: (
        (y := x + n['mixer_out_norm'](f(n['mixer_norm'](x))))
        + n['ffn_out_norm'](g(n['ffn_norm'](y)))
    ),
    'parallel': lambda x, f, g, n, p: x + f(n['norm'](x)) + g(n['norm'](x)),
    'rezero': lambda x, f, g, n, p: (y := x + p['mixer_alpha'] * f(x)) + p['ffn_alpha'] * g(y),
}


def test_every_block_has_a_topology() -> None:
    assert {spec.split('(')[0] for spec in TOPOLOGIES} == set(BLOCKS)


def block(spec: str) -> tuple[nn.Module, Any, jax.Array, Context]:
    """A block of two affine maps, random parameters, an input."""
    parts = {
        'mixers': {'mixer': partial(Affine, 2.0)},
        'ffn': partial(Affine, -3.0),
        'norm': RMSNorm,
    }
    module = make(BLOCKS, spec, 'block', **parts)
    rng = np.random.default_rng(0)
    x, here = jnp.asarray(rng.standard_normal((B, L, D)), jnp.float32), Coordinates.of(L)
    context = Context(here, here)
    start = nn.unbox(module.init(jax.random.key(0), x, context))['params']
    draw = lambda a: jnp.asarray(rng.standard_normal(a.shape), jnp.float32)  # noqa: E731
    return module, jax.tree.map(draw, start), x, context


@pytest.mark.parametrize('spec', TOPOLOGIES)
def test_block_is_its_topology(spec: str) -> None:
    module, params, x, context = block(spec)

    def norm(which: str) -> Part:
        return lambda x: RMSNorm().apply({'params': params[which]}, x)

    want = TOPOLOGIES[spec](
        x,
        lambda x: 2 * x + params['mixer']['shift'],
        lambda x: -3 * x + params['ffn']['shift'],
        {name: norm(name) for name in params if name.endswith('norm')},
        params,
    )
    got = module.apply({'params': params}, x, context)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_rezero_starts_as_the_identity() -> None:
    module, _, x, context = block('rezero')
    start = module.init(jax.random.key(0), x, context)
    np.testing.assert_array_equal(module.apply(start, x, context), x)


@pytest.mark.parametrize('name', BLOCKS)
def test_stochastic_depth_is_on_only_with_an_rng(name: str) -> None:
    module, params, x, context = block(f'{name}(drop=0.5)')
    plain = block(name)[0].apply({'params': params}, x, context)
    np.testing.assert_array_equal(module.apply({'params': params}, x, context), plain)
    keys = [{'dropout': jax.random.key(i)} for i in range(8)]
    noisy = [module.apply({'params': params}, x, context, rngs=k) for k in keys]
    # Of 16 branches of rows or more, all kept by chance: once in 65,536.
    assert any(np.any(y != plain) for y in noisy)
    again = module.apply({'params': params}, x, context, rngs=keys[0])
    np.testing.assert_array_equal(noisy[0], again)


def test_stochastic_depth_drops_whole_rows_of_a_branch_and_keeps_the_mean() -> None:
    """Parallel has one branch: each row is the input, or the input and twice the branch."""
    module, params, _, context = block('parallel(drop=0.5)')
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2000, L, D)), jnp.float32)
    branch = np.asarray(module.apply({'params': params}, x, context) - x)
    noisy = module.apply({'params': params}, x, context, rngs={'dropout': jax.random.key(0)})
    moved = np.asarray(noisy - x)
    dropped = ~moved.any((1, 2))
    np.testing.assert_allclose(moved[~dropped], 2 * branch[~dropped], rtol=1e-3, atol=1e-4)
    # 2,000 draws: the share is within 0.056 at 5 sigma.
    assert dropped.mean() == pytest.approx(0.5, abs=0.056)
