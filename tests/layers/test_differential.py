"""Differential attention against the paper's formula, head by head."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.differential import Differential
from bigmodel.layers.fused import Fused
from bigmodel.layers.kernel import Kernel
from bigmodel.layers.reference import Reference
from bigmodel.specs import make
from tests.small import quick_jit

B, L, D, H, K = 2, 6, 12, 8, 4


def context() -> Context:
    here = Coordinates.of(L)
    return Context(here, here, aligned=True)


def by_hand(x: np.ndarray, p: Any, kv_heads: int, lambda_init: float) -> np.ndarray:
    """The pseudocode of the paper's §2.1; heads 2i and 2i+1 of q and k are the maps of head i."""
    q, k, v = (np.einsum('BLD,DHK->BLHK', x, p[n]['weight']) for n in 'qkv')
    share = math.exp(p['lambda_q1'] @ p['lambda_k1']) - math.exp(p['lambda_q2'] @ p['lambda_k2'])
    share += lambda_init
    group, y = H // kv_heads, np.zeros((B, L, D))
    for b, i, head in np.ndindex(B, L, H // 2):
        maps = []
        for h in (2 * head, 2 * head + 1):
            e = np.exp(k[b, : i + 1, h // group] @ q[b, i, h] / math.sqrt(K))
            maps.append(e / e.sum())
        pair = 2 * (head // group)
        values = np.concatenate([v[b, : i + 1, pair], v[b, : i + 1, pair + 1]], -1)
        o = (maps[0] - share * maps[1]) @ values
        o = o / np.sqrt(np.mean(o * o) + 1e-5) * p['norm']['scale'] * (1 - lambda_init)
        y[b, i] += o @ p['out']['weight'][head]
    return y


@pytest.mark.parametrize('kernel', [Reference(), Fused(), Blockwise(4)], ids=repr)
@pytest.mark.parametrize('kv_heads', [8, 4, 2])
def test_it_is_the_difference_of_two_maps(kv_heads: int, kernel: Kernel) -> None:
    table = {'differential': Differential}
    known = {'num_heads': H, 'num_kv_heads': kv_heads, 'head_dim': K, 'kernel': kernel}
    module = make(table, 'differential(lambda_init=0.3)', 'mixer', **known)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, L, D))
    init = nn.init(lambda m, x: m(x, context()), module)
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), jnp.ones((B, L, D))))['params']
    params = jax.tree.map(lambda s: 0.3 * rng.standard_normal(s.shape), shapes)
    want = by_hand(x, params, kv_heads, 0.3)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x))
    got = quick_jit(lambda p, x: module.apply({'params': p}, x, context()))(*single)
    # The norm divides differences of two weighted means, which may be near 0.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
