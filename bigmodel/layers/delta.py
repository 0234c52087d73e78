"""Gated DeltaNet: a matrix-valued state that overwrites what a key held before."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from bigmodel.layers.convolution import DepthwiseConv
from bigmodel.layers.coordinates import Context
from bigmodel.layers.linear_attention import HEADS, Chunk, decays, join, split, split_starts
from bigmodel.layers.norms import RMSNorm
from bigmodel.layers.stateful import Stateful, Vector, keep, recall
from bigmodel.specs import POSITIVE


class GatedDeltaNet(Stateful):
    """S_t = a_t·(I − β_t·k_t·k_tᵀ)S_{t−1} + β_t·k_t·v_tᵀ, o_t = S_tᵀq_t, normed by head and gated
    by silu(W_g·x) (Yang et al. 2024).

    q, k, v pass a short convolution and silu; q and k have length 1 (q then 1/√d_k); β = σ(W_β·x)
    and a = exp(−exp(A)·softplus(W_a·x + b)).
    """

    num_heads: int
    head_dim: int
    conv: Annotated[int, POSITIVE] = 4
    chunk: Chunk = 64

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        B, _, D = x_BLD.shape
        H, K = self.num_heads, self.head_dim
        starts = context.starts()
        q_BLHK, k_BLHK, v_BLHK = (self._convolved(n, x_BLD, starts) for n in 'qkv')
        beta_BLH = jax.nn.sigmoid(self.project('beta', (H,), ('heads',))(x_BLD))
        state = recall(self, 'state', (B, H, K, K))
        o_BLHK, state = delta_rule(
            _unit(q_BLHK) / K**0.5,
            _unit(k_BLHK),
            v_BLHK,
            beta_BLH.astype(jnp.float32),
            step_decay(self, x_BLD, H)[1],
            starts,
            state,
            self.chunk,
        )
        keep(self, 'state', state)
        o_BLHK = RMSNorm(axis='head_dim', name='norm')(o_BLHK).astype(self.dtype)
        gate_BLHK = jax.nn.silu(self.project('gate', (H, K), HEADS)(x_BLD))
        return self.project_out(gate_BLHK * o_BLHK, D, HEADS)

    def _convolved(self, name: str, x_BLD: Array, starts: Array) -> Array:
        y_BLHK = self.project(name, (self.num_heads, self.head_dim), HEADS)(x_BLD)
        conv = DepthwiseConv(self.conv, HEADS, name=f'{name}_conv')
        return jax.nn.silu(conv(y_BLHK, starts)).astype(jnp.float32)


def delta_rule(
    q: Float[Array, 'B L H K'],
    k: Float[Array, 'B L H K'],
    v: Float[Array, 'B L H V'],
    beta: Float[Array, 'B L H'],
    log_decay: Float[Array, 'B L H'],
    starts: Bool[Array, 'P L'],
    state: Float[Array, 'B H K V'],
    chunk: int,
) -> tuple[Float[Array, 'B L H V'], Float[Array, 'B H K V']]:
    """The recurrence of `GatedDeltaNet`, chunk by chunk, and its last state.

    What a token writes, u_t = β_t(v_t − a_t·S_{t−1}ᵀk_t), depends on what the tokens before wrote:
    within a chunk that is one triangular system (Yang et al. 2024, §3.3).
    """

    def step(state: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v, beta, log_decay, start = inputs
        within, before, after = decays(log_decay, start)
        beta, before = beta[..., None], before[..., None]
        unit = jnp.eye(k.shape[-2]) + jnp.tril(beta * within * (k @ k.mT), -1)
        u = unit_inverse(unit) @ (beta * (v - before * (k @ state)))
        o = (q @ k.mT * within) @ u + before * (q @ state)
        return before[..., -1:, :] * state + (k * after[..., None]).mT @ u, o

    arrays = (*split((q, k, v, beta, log_decay), chunk), split_starts(starts, q.shape[0], chunk))
    state, o_NBHCV = jax.lax.scan(step, state, arrays)
    return join(o_NBHCV, q.shape[1]), state


def unit_inverse(unit: Float[Array, '*s C C']) -> Float[Array, '*s C C']:
    """The inverse of lower triangular matrices with ones on the diagonal, by halves:
    [[A, 0], [B, D]]⁻¹ = [[A⁻¹, 0], [−D⁻¹·B·A⁻¹, D⁻¹]].
    """
    # Not LAPACK's: jaxlib 0.10 solves a batch in the threads that run the devices, so with as many
    # host devices as cores each waits for the others for ever.
    size = unit.shape[-1]
    if size == 1:
        return unit
    if size % 2:
        rest = [(0, 0)] * (unit.ndim - 2)
        padded = jnp.pad(unit, [*rest, (0, 1), (0, 1)]).at[..., -1, -1].set(1)
        return unit_inverse(padded)[..., :size, :size]
    half = size // 2
    a, d = unit_inverse(jnp.stack([unit[..., :half, :half], unit[..., half:, half:]]))
    b = -d @ unit[..., half:, :half] @ a
    return jnp.block([[a, jnp.zeros_like(a)], [b, d]])


def step_decay(
    mixer: Stateful, x_BLD: Float[Array, 'B L D'], heads: int
) -> tuple[Float[Array, 'B L H'], Float[Array, 'B L H']]:
    """Δ_t = softplus(W·x_t + b) by head, and the log of the decay exp(−exp(A)·Δ_t).

    At the start exp(A) is uniform in [1, 16] and softplus(b) log-uniform in [0.001, 0.1], as in
    Mamba-2 (Dao & Gu 2024).
    """
    bias_H = Vector((heads,), ('heads',), _step_bias, name='step_bias')()
    log_rate_H = Vector((heads,), ('heads',), _log_rate, name='log_rate')()
    raw_BLH = mixer.project('step', (heads,), ('heads',))(x_BLD).astype(jnp.float32)
    step_BLH = jax.nn.softplus(raw_BLH + bias_H)
    return step_BLH, -jnp.exp(log_rate_H) * step_BLH


def _step_bias(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    log_step = jax.random.uniform(key, shape, dtype, jnp.log(0.001), jnp.log(0.1))
    return jnp.log(jnp.expm1(jnp.exp(log_step)))


def _log_rate(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)
