"""Mamba-2: a selective state-space model whose decay is a scalar a head."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.convolution import DepthwiseConv
from bigmodel.layers.coordinates import Context
from bigmodel.layers.delta import step_decay
from bigmodel.layers.linear_attention import HEADS, Chunk, chunked
from bigmodel.layers.norms import RMSNorm
from bigmodel.layers.stateful import Stateful, Vector, keep, recall
from bigmodel.specs import POSITIVE


class Mamba2(Stateful):
    """h_t = exp(−exp(A)·Δ_t)·h_{t−1} + Δ_t·b_t·u_tᵀ, y_t = c_tᵀh_t + D·u_t, and the output is
    W_o·rmsnorm(y ⊙ silu(W_z·x)) (Dao & Gu 2024).

    u, b and c are projections that pass a short convolution and silu; b and c, of size `state`, are
    shared by all heads, of which there are `expand`·num_heads.
    """

    num_heads: int
    head_dim: int
    state: Annotated[int, POSITIVE] = 64
    expand: Annotated[int, POSITIVE] = 2
    conv: Annotated[int, POSITIVE] = 4
    chunk: Chunk = 64

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        B, L, D = x_BLD.shape
        H, K, N = self.expand * self.num_heads, self.head_dim, self.state
        u_BLHK = self._convolved('in', (H, K), HEADS, x_BLD, context)
        b_BLGN = self._convolved('b', (N,), ('state',), x_BLD, context)[:, :, None]
        c_BLGN = self._convolved('c', (N,), ('state',), x_BLD, context)[:, :, None]
        step_BLH, log_decay_BLH = step_decay(self, x_BLD, H)
        y_BLHK, state = chunked(
            c_BLGN,
            b_BLGN,
            u_BLHK * step_BLH[..., None],
            log_decay_BLH,
            context.starts(),
            recall(self, 'state', (B, H, N, K)),
            self.chunk,
        )
        keep(self, 'state', state)
        skip_H = Vector((H,), ('heads',), nn.initializers.ones, name='skip')()
        y_BLHK = y_BLHK + skip_H[:, None] * u_BLHK
        y_BLHK = y_BLHK * jax.nn.silu(self.project('gate', (H, K), HEADS)(x_BLD))
        y_BLF = RMSNorm(axis='mlp', name='norm')(y_BLHK.reshape(B, L, H * K))
        return self.project_out(y_BLF.reshape(B, L, H, K).astype(self.dtype), D, HEADS)

    def _convolved(
        self,
        name: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        x_BLD: Array,
        context: Context,
    ) -> Array:
        y = self.project(name, shape, axes)(x_BLD)
        conv = DepthwiseConv(self.conv, axes, name=f'{name}_conv')
        return jax.nn.silu(conv(y, context.starts())).astype(jnp.float32)
