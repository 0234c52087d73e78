"""RG-LRU: a gated linear recurrence over channels, by an associative scan."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.convolution import DepthwiseConv
from bigmodel.layers.coordinates import Context
from bigmodel.layers.linear import Linear
from bigmodel.layers.linear_attention import HEADS, Chunk, cut
from bigmodel.layers.stateful import Stateful, Vector, keep, recall
from bigmodel.specs import POSITIVE


class RGLRU(Stateful):
    """h_t = a_t ⊙ h_{t−1} + √(1−a_t²) ⊙ (i_t ⊙ u_t) with a_t = σ(Λ)^(c·r_t) and gates r_t, i_t of
    u_t, a short convolution of a projection; the output is W_o(gelu(W_g·x) ⊙ h) (Griffin, De et al.
    2024, §2.4).

    The gates are block-diagonal, a block a head, as the paper's are.
    """

    num_heads: int
    head_dim: int
    conv: Annotated[int, POSITIVE] = 4
    c: Annotated[float, POSITIVE] = 8.0
    chunk: Chunk = 256

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        shape, starts = (self.num_heads, self.head_dim), context.starts()
        gate_BLHK = jax.nn.gelu(self.project('gate', shape, HEADS)(x_BLD))
        u_BLHK = self.project('in', shape, HEADS)(x_BLD)
        u_BLHK = DepthwiseConv(self.conv, HEADS, name='conv')(u_BLHK, starts)
        log_a = -self.c * jax.nn.softplus(-Vector(shape, HEADS, _decay, name='decay')())
        u_BLHK = u_BLHK.astype(jnp.float32)
        log_a = log_a * self._gate('forget', u_BLHK)
        # √ has no gradient at 0, where a is 1: the bound is below what float32 resolves of 1 − a².
        root = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))
        a_BLHK = jnp.where(starts[:, :, None, None], 0, jnp.exp(log_a))
        b_BLHK = root * self._gate('input', u_BLHK) * u_BLHK
        state_BHK = recall(self, 'state', (x_BLD.shape[0], *shape))
        h_BLHK = linear_scan(a_BLHK, b_BLHK, state_BHK, self.chunk)
        keep(self, 'state', h_BLHK[:, -1])
        return self.project_out(gate_BLHK * h_BLHK.astype(self.dtype), x_BLD.shape[-1], HEADS)

    def _gate(self, name: str, u_BLHK: Array) -> Array:
        by_head = nn.vmap(
            Linear,
            in_axes=2,
            out_axes=2,
            variable_axes={'params': 0},
            split_rngs={'params': True},
            metadata_params={nn.PARTITION_NAME: 'heads'},
        )
        rest = (True, 'linear', self.init, jnp.float32)
        linear = by_head((self.head_dim,), ('head_dim',), ('head_dim',), *rest, name=name)
        return jax.nn.sigmoid(linear(u_BLHK))


def linear_scan(
    a: Float[Array, 'B L *c'], b: Float[Array, 'B L *c'], state: Float[Array, 'B *c'], chunk: int
) -> Float[Array, 'B L *c']:
    """h_t = a_t·h_{t−1} + b_t from h_{−1} = `state`.

    An associative scan in chunks, so that the program does not grow with the length: one over all
    16k tokens took half a minute to compile on CPU.
    """

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    def step(state: Array, ab: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ab
        b = b.at[:, 0].add(a[:, 0] * state)
        h = jax.lax.associative_scan(combine, (a, b), axis=1)[1]
        return h[:, -1], h

    _, h = jax.lax.scan(step, state, (cut(a, chunk), cut(b, chunk)))
    return jnp.moveaxis(h, 0, 1).reshape(a.shape[0], -1, *a.shape[2:])[:, : a.shape[1]]


def _decay(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Λ such that σ(Λ)^c is uniform in [0.9, 0.999] for c = 8 (§2.4)."""
    log_a = jnp.log(jax.random.uniform(key, shape, dtype, 0.9, 0.999)) / 8
    return log_a - jnp.log(-jnp.expm1(log_a))
