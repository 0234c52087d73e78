"""Multi-head latent attention against the equations of its paper, and what it keeps."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.fused import Fused
from bigmodel.layers.kernel import Kernel
from bigmodel.layers.latent import LatentAttention
from bigmodel.layers.positions import Rope
from bigmodel.layers.reference import Reference
from tests.small import quick_jit

B, L, D, H, K, R, P = 2, 6, 12, 3, 4, 5, 2


def context(length: int = L, start: int = 0, slots: int = L) -> Context:
    return Context(Coordinates.of(length, start=start), Coordinates.of(slots))


def module_of(q_rank: int, kernel: Kernel = Reference()) -> LatentAttention:  # noqa: B008
    return LatentAttention(
        H, H, K, position=Rope(), kernel=kernel, rank=R, q_rank=q_rank, rope_dim=P
    )


def random_arrays(module: LatentAttention) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    init = nn.init(lambda m, x: m(x, context()), module)
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), jnp.ones((B, L, D))))['params']
    params = jax.tree.map(lambda s: 0.5 * rng.standard_normal(s.shape), shapes)
    return params, rng.standard_normal((B, L, D))


def by_hand(x: np.ndarray, p: Any, q_rank: int) -> np.ndarray:
    """Equations 9 to 19 of the paper, with the norms of its code; pairs of P = 2 turn by 1."""

    def latent(name: str) -> np.ndarray:
        c = x @ p[f'{name}_down']['weight']
        return c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-6) * p[f'{name}_norm']['scale']

    def rotated(x: np.ndarray, i: int) -> np.ndarray:
        return np.array([[np.cos(i), -np.sin(i)], [np.sin(i), np.cos(i)]]) @ x

    c, query = latent('kv'), p['q_up' if q_rank else 'q']['weight']
    q = np.einsum('BLQ,QHK->BLHK', latent('q') if q_rank else x, query)
    k, v = (np.einsum('BLR,RHK->BLHK', c, p[n]['weight']) for n in ('k_up', 'v_up'))
    shared, y = x @ p['k_rope']['weight'], np.zeros((B, L, D))
    for b, i, h in np.ndindex(B, L, H):
        logits = [
            q[b, i, h, :K] @ k[b, j, h] + rotated(q[b, i, h, K:], i) @ rotated(shared[b, j], j)
            for j in range(i + 1)
        ]
        e = np.exp(np.array(logits) / math.sqrt(K + P))
        y[b, i] += (e / e.sum()) @ v[b, : i + 1, h] @ p['out']['weight'][h]
    return y


@pytest.mark.parametrize('kernel', [Reference(), Fused(), Blockwise(4)], ids=repr)
@pytest.mark.parametrize('q_rank', [0, 7])
def test_it_is_the_papers(q_rank: int, kernel: Kernel) -> None:
    module = module_of(q_rank, kernel)
    params, x = random_arrays(module)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x))
    got = quick_jit(lambda p, x: module.apply({'params': p}, x, context()))(*single)
    np.testing.assert_allclose(got, by_hand(x, params, q_rank), rtol=1e-4, atol=1e-5)


def test_the_cache_holds_the_latent_and_the_shared_key_alone() -> None:
    module = module_of(0)
    params, x = random_arrays(module)
    where = context(2, 0, 9)
    _, kept = jax.eval_shape(
        lambda p, x: module.apply({'params': p}, x, where, mutable=['cache']), params, x[:, :2]
    )
    shapes = jax.tree.map(lambda a: a.shape, kept['cache'])
    assert shapes == {'latent': (B, 9, R), 'rotated': (B, 9, 1, P)}
