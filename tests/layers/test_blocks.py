"""Residual topologies against compositions by hand."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.norms import RMSNorm

B, L, D = 2, 3, 4


class Affine(nn.Module):
    """A stand-in for a mixer or an FFN: `factor`·x + shift."""

    factor: float

    @nn.compact
    def __call__(self, x: jax.Array, *context: Context) -> jax.Array:
        return self.factor * x + self.param('shift', nn.initializers.normal(1.0), (D,))


Norm = Callable[[jax.Array], jax.Array]
# What each block computes from x, a mixer f, an FFN g and two norms. A new block needs a line.
TOPOLOGIES: dict[str, Callable[..., jax.Array]] = {
    'prenorm': lambda x, f, g, n1, n2: (y := x + f(n1(x))) + g(n2(y)),
    'postnorm': lambda x, f, g, n1, n2: n2((y := n1(x + f(x))) + g(y)),
}


def test_every_block_has_a_topology() -> None:
    assert set(TOPOLOGIES) == set(BLOCKS)


@pytest.mark.parametrize('name', BLOCKS)
def test_block_is_its_topology(name: str) -> None:
    module = BLOCKS[name](partial(Affine, 2.0), partial(Affine, -3.0), RMSNorm)
    here = Coordinates.of(L)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((B, L, D)))
    params = nn.unbox(module.init(jax.random.key(0), x, Context(here, here)))['params']
    params['mixer_norm']['scale'] = jnp.array([1.0, 2.0, 3.0, 4.0])
    params['ffn_norm']['scale'] = jnp.array([-1.0, 0.5, 1.0, 2.0])

    def norm(which: str) -> Norm:
        return lambda x: RMSNorm().apply({'params': params[which]}, x)

    want = TOPOLOGIES[name](
        x,
        lambda x: 2 * x + params['mixer']['shift'],
        lambda x: -3 * x + params['ffn']['shift'],
        norm('mixer_norm'),
        norm('ffn_norm'),
    )
    got = module.apply({'params': params}, x, Context(here, here))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
