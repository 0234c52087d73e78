"""Linear attention: a matrix-valued state with a scalar decay, computed chunk by chunk."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Shaped

from bigmodel.layers.coordinates import Context
from bigmodel.layers.norms import RMSNorm
from bigmodel.layers.stateful import Stateful, keep, recall
from bigmodel.specs import POSITIVE

HEADS = ('heads', 'head_dim')
Chunk = Annotated[int, POSITIVE]


class LinearAttention(Stateful):
    """o_t = φ(q_t)ᵀ Σ_{s≤t} φ(k_s)v_sᵀ / φ(q_t)ᵀ Σ_{s≤t} φ(k_s) with φ = elu + 1
    (Katharopoulos et al. 2020).
    """

    num_heads: int
    head_dim: int
    chunk: Chunk = 64

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        B, L, D = x_BLD.shape
        shape = (self.num_heads, self.head_dim)
        q_BLHK, k_BLHK, v_BLHK = (
            self.project(n, shape, HEADS)(x_BLD).astype(jnp.float32) for n in 'qkv'
        )
        q_BLHK, k_BLHK = jax.nn.elu(q_BLHK) + 1, jax.nn.elu(k_BLHK) + 1
        # The sum of weights is one more value, which is always 1.
        v_BLHV = jnp.concatenate([v_BLHK, jnp.ones((B, L, self.num_heads, 1))], -1)
        state = recall(self, 'state', (B, *shape, self.head_dim + 1))
        no_decay = jnp.zeros((B, L, self.num_heads))
        sums, state = chunked(q_BLHK, k_BLHK, v_BLHV, no_decay, context.starts(), state, self.chunk)
        keep(self, 'state', state)
        # φ underflows to 0 for very negative keys; the authors' code adds 1e-6, too.
        o_BLHK = sums[..., :-1] / (sums[..., -1:] + 1e-6)
        return self.project_out(o_BLHK.astype(self.dtype), D, HEADS)


class Retention(Stateful):
    """S_t = γ_h·S_{t−1} + k_t·v_tᵀ, o_t = q_tᵀS_t/√d_k with γ_h from 1−2⁻⁵ to 1−2⁻⁹ over heads,
    normed by head and gated by silu(W_g·x) (RetNet, Sun et al. 2023; without its rotation).
    """

    num_heads: int
    head_dim: int
    chunk: Chunk = 64

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        B, L, D = x_BLD.shape
        H, K = self.num_heads, self.head_dim
        q_BLHK, k_BLHK, v_BLHK = (
            self.project(n, (H, K), HEADS)(x_BLD).astype(jnp.float32) for n in 'qkv'
        )
        log_decay = jnp.log1p(-jnp.exp2(-jnp.linspace(5.0, 9.0, H)))
        state = recall(self, 'state', (B, H, K, K))
        o_BLHK, state = chunked(
            q_BLHK / K**0.5,
            k_BLHK,
            v_BLHK,
            jnp.broadcast_to(log_decay, (B, L, H)),
            context.starts(),
            state,
            self.chunk,
        )
        keep(self, 'state', state)
        o_BLHK = RMSNorm(axis='head_dim', name='norm')(o_BLHK).astype(self.dtype)
        gate_BLHK = jax.nn.silu(self.project('gate', (H, K), HEADS)(x_BLD))
        return self.project_out(gate_BLHK * o_BLHK, D, HEADS)


def chunked(
    q: Float[Array, 'B L G K'],
    k: Float[Array, 'B L G K'],
    v: Float[Array, 'B L H V'],
    log_decay: Float[Array, 'B L H'],
    starts: Bool[Array, 'P L'],
    state: Float[Array, 'B H K V'],
    chunk: int,
) -> tuple[Float[Array, 'B L H V'], Float[Array, 'B H K V']]:
    """o_t = q_tᵀS_t with S_t = a_t·S_{t−1} + k_t·v_tᵀ, and the last S; a_t is 0 at starts.

    Products of `chunk`² within a chunk and a scan over chunks: L·chunk work, no loop over time
    (the chunk-wise form of Sun et al. 2023; state-space duality, Dao & Gu 2024, §6). G is H or 1.
    """

    def step(state: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v, log_decay, start = inputs
        within, before, after = decays(log_decay, start)
        o = (q @ k.mT * within) @ v + before[..., None] * (q @ state)
        return before[..., -1:, None] * state + (k * after[..., None]).mT @ v, o

    arrays = (*split((q, k, v, log_decay), chunk), split_starts(starts, q.shape[0], chunk))
    state, o_NBHCV = jax.lax.scan(step, state, arrays)
    return join(o_NBHCV, q.shape[1]), state


def decays(
    log_decay_BHC: Float[Array, 'B H C'], starts_BC: Bool[Array, 'B C']
) -> tuple[Float[Array, 'B H C C'], Float[Array, 'B H C'], Float[Array, 'B H C']]:
    """What is left in a chunk at t of token s; at t of the state before; at the end of token s."""
    total = jnp.cumsum(log_decay_BHC, -1)
    document = jnp.cumsum(starts_BC, -1, dtype=jnp.int32)[:, None]
    seen = (document[..., :, None] == document[..., None, :]) & jnp.tri(total.shape[-1], dtype=bool)
    # Masked before exp: a sum over the future is positive and could overflow.
    within = jnp.exp(jnp.where(seen, total[..., :, None] - total[..., None, :], -jnp.inf))
    before = jnp.exp(jnp.where(document == 0, total, -jnp.inf))
    return within, before, within[..., -1, :]


def split(arrays: tuple[Float[Array, '...'], ...], chunk: int) -> tuple[Float[Array, '...'], ...]:
    """(B, L, H, …) to (N, B, H, C, …): chunks first for a scan; zeros fill the last one."""
    return tuple(jnp.moveaxis(cut(x, chunk), 3, 2) for x in arrays)


def split_starts(starts: Bool[Array, 'P L'], rows: int, chunk: int) -> Bool[Array, 'N B C']:
    """The same for the starts of `rows` documents."""
    return cut(jnp.broadcast_to(starts, (rows, starts.shape[1])), chunk)


def join(x_NBHCV: Float[Array, 'N B H C V'], length: int) -> Float[Array, 'B L H V']:
    """Undoes `split`."""
    N, B, H, C, V = x_NBHCV.shape
    return x_NBHCV.transpose(1, 0, 3, 2, 4).reshape(B, N * C, H, V)[:, :length]


def cut(x: Shaped[Array, 'B L *c'], chunk: int) -> Shaped[Array, 'N B C *c']:
    """Chunks of the length, first for a scan; zeros fill the last one."""
    B, L = x.shape[:2]
    C = min(chunk, L)
    N = -(-L // C)
    padded = jnp.pad(x, [(0, 0), (0, N * C - L), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(padded.reshape(B, N, C, *x.shape[2:]), 1, 0)
