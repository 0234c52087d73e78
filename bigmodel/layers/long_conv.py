"""Long convolutions: filters as long as the row, by head, and restarted at documents exactly.

The fast Fourier transform is not used: its rounding lets later tokens reach earlier ones, and it
knows no documents. Toeplitz matrices T_ts = h_{t−s}, cut into blocks, do, and are matrix products.
"""

import math
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.cache import remember
from bigmodel.layers.convolution import DepthwiseConv, Width
from bigmodel.layers.coordinates import Context
from bigmodel.layers.linear import Linear
from bigmodel.layers.linear_attention import HEADS, Chunk
from bigmodel.layers.positions import sinusoids
from bigmodel.layers.stateful import Stateful, Vector
from bigmodel.specs import POSITIVE

MOST_BLOCKS = 8  # of a row, in each level of its division: 9/16 of L² are products


class LongConv(Stateful):
    """q ⊙ (h∗(k ⊙ v) + d ⊙ k ⊙ v), where h is a filter over the whole row (Poli et al. 2023, Hyena
    of order 2, after Fu et al. 2023, H3), one for each head.

    q, k, v are projections that pass a short convolution of `conv` tokens. h is implicit, an MLP of
    the distance under a decaying window: see `Filter`. Work grows with L², as that of attention,
    but there is one matrix for all rows. Decoding keeps k ⊙ v of all tokens.
    """

    num_heads: int
    head_dim: int
    conv: Width = 3
    features: Annotated[int, POSITIVE] = 32
    hidden: Annotated[int, POSITIVE] = 64
    chunk: Chunk = 64
    max_length: int = 1024

    pair_products = 1

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        q_BLHK, k_BLHK, v_BLHK = (self._convolved(n, x_BLD, context) for n in 'qkv')
        z_BLHK = k_BLHK * v_BLHK
        h_HS = Filter(self.num_heads, self.features, self.hidden, self.max_length, name='filter')(
            len(context.keys.index)
        ).astype(self.dtype)
        if context.aligned:
            document_BL = jnp.broadcast_to(_documents(context), x_BLD.shape[:2])
            y_BLHK = convolve(z_BLHK, h_HS, document_BL, self.chunk)
        else:
            y_BLHK = _convolve_cached(remember(self, 'inputs', z_BLHK, context), h_HS, context)
        shape = (self.num_heads, self.head_dim)
        skip_HK = Vector(shape, HEADS, nn.initializers.ones, name='skip')()
        y_BLHK = q_BLHK * (y_BLHK + skip_HK * z_BLHK).astype(self.dtype)
        return self.project_out(y_BLHK, x_BLD.shape[-1], HEADS)

    def _convolved(self, name: str, x_BLD: Array, context: Context) -> Float[Array, 'B L H K']:
        y_BLHK = self.project(name, (self.num_heads, self.head_dim), HEADS)(x_BLD)
        return DepthwiseConv(self.conv, HEADS, name=f'{name}_conv')(y_BLHK, context.starts())


class Filter(nn.Module):
    """h_t = √(1−e^{−2a})·e^{−at}·MLP(sinusoids of t), with sines as the MLP's activation.

    The windows of the heads fall to 1 % between 0.3 and 1.5 times `max_length`, as in Poli et al.
    2023; the root makes a filter's energy independent of the length, and so is the whole filter.
    """

    num_heads: int
    features: int
    hidden: int
    max_length: int

    @nn.compact
    def __call__(self, length: int) -> Float[Array, 'H L']:
        """The filter at distances 0 … `length` − 1, float32."""
        t_L = jnp.arange(length)
        # Not the model's initialisation: its small weights would silence the filter.
        x_LF = sinusoids(t_L[None], self.features, 10000.0)[0]
        x_LF = jnp.sin(Linear((self.hidden,), ('taps',), ('state',), True, name='in')(x_LF))
        x_LF = jnp.sin(Linear((self.hidden,), ('state',), ('latent',), True, name='mid')(x_LF))
        h_LH = Linear((self.num_heads,), ('latent',), ('heads',), name='out')(x_LF)
        a_H = jnp.linspace(1 / 1.5, 1 / 0.3, self.num_heads) * math.log(100) / self.max_length
        return (jnp.sqrt(-jnp.expm1(-2 * a_H)) * jnp.exp(-a_H * t_L[:, None]) * h_LH).T


def convolve(
    z_BLHK: Float[Array, 'B L H K'],
    h_HL: Float[Array, 'H L'],
    document_BL: Int[Array, 'B L'],
    chunk: int,
) -> Float[Array, 'B L H K']:
    """Σ h_{t−s}·z_s over s ≤ t of the document of t, float32; documents are numbered in order.

    Rows are cut into blocks of `chunk` tokens, or into 8 longer ones that are cut again.
    """
    B, L, H, K = z_BLHK.shape
    if chunk >= L:
        same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
        t_HLL = toeplitz(jnp.pad(h_HL, [(0, 0), (L - 1, 0)]))
        return _products('bls,hls,bshk->blhk', same_BLL.astype(h_HL.dtype), t_HLL, z_BLHK)
    C = max(chunk, -(-L // MOST_BLOCKS))
    N = -(-L // C)
    end = (0, N * C - L)
    z_BLHK = jnp.pad(z_BLHK, [(0, 0), end, (0, 0), (0, 0)])
    document_BL = jnp.pad(document_BL, [(0, 0), end], mode='edge')
    h_HL = jnp.pad(h_HL, [(0, 0), end])
    rows = (z_BLHK.reshape(B * N, C, H, K), h_HL[:, :C], document_BL.reshape(B * N, C))
    y_BNCHK = convolve(*rows, chunk).reshape(B, N, C, H, K)
    # A token of a later block shares its document with one of this block exactly when both share it
    # with the block's last token: a mask of tokens, not of pairs.
    document_BNC = document_BL.reshape(B, N, C)
    last_BN1 = document_BNC[:, :, -1:]
    inside_BNC = document_BNC == last_BN1
    z_BNCHK = jnp.where(inside_BNC[..., None, None], z_BLHK.reshape(B, N, C, H, K), 0)
    for d in range(1, N):
        block_HCC = toeplitz(h_HL[:, (d - 1) * C + 1 : (d + 1) * C])
        far_BnCHK = _products('hls,bnshk->bnlhk', block_HCC, z_BNCHK[:, : N - d])
        reached_BnC = document_BNC[:, d:] == last_BN1[:, : N - d]
        y_BNCHK = y_BNCHK.at[:, d:].add(jnp.where(reached_BnC[..., None, None], far_BnCHK, 0))
    return y_BNCHK.reshape(B, N * C, H, K)[:, :L]


def toeplitz(w_HM: Float[Array, 'H M']) -> Float[Array, 'H C C']:
    """T_ab = w_{C−1+a−b}, M = 2C − 1: diagonals from the upper right corner to the lower left one.

    Nothing is gathered: copies of a row, cut one shorter than it is, move by one from copy to copy.
    """
    H, M = w_HM.shape
    C = (M + 1) // 2
    row_H2C = jnp.pad(w_HM[:, ::-1], [(0, 0), (0, 1)])
    copies_H = jnp.tile(row_H2C, C)[:, : C * M].reshape(H, C, M)
    return copies_H[:, :, C - 1 :]


def _convolve_cached(
    z_BSHK: Float[Array, 'B S H K'], h_HS: Float[Array, 'H S'], context: Context
) -> Float[Array, 'B L H K']:
    """The same for the queries, over all slots of the cache."""
    document_BS = _documents(context.replace(queries=context.keys))
    document_BL = jnp.take(document_BS, context.queries.index, axis=1)
    same_BLS = document_BL[:, :, None] == document_BS[:, None, :]
    distance_LS = context.queries.distance(context.keys)
    t_HLS = jnp.where(distance_LS >= 0, h_HS[:, jnp.maximum(distance_LS, 0)], 0)
    return _products('bls,hls,bshk->blhk', same_BLS.astype(h_HS.dtype), t_HLS, z_BSHK)


def _documents(context: Context) -> Int[Array, 'P L']:
    """The number of each query's document in its row."""
    return jnp.cumsum(context.starts(), 1, dtype=jnp.int32)


def _products(what: str, *factors: Array) -> Float[Array, '...']:
    return jnp.einsum(what, *factors, preferred_element_type=jnp.float32)
