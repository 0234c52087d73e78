"""Differential attention: the difference of two attention maps."""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bigmodel.layers.cache import remember
from bigmodel.layers.coordinates import Context
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.kernel import Kernel
from bigmodel.layers.linear import Linear
from bigmodel.layers.masks import Causal, Mask, SameSegment
from bigmodel.layers.mixer import Mixer
from bigmodel.layers.names import named
from bigmodel.layers.norms import RMSNorm
from bigmodel.layers.positions import Position
from bigmodel.layers.reference import Reference
from bigmodel.specs import SHARE


class Differential(Mixer):
    """(softmax(Q₁K₁ᵀ/√d) − λ·softmax(Q₂K₂ᵀ/√d))V, normed in each head (Ye et al. 2024).

    Two heads of queries and keys make one of twice the width, so that `num_heads` costs what it
    costs in attention. λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + `lambda_init` is learned; the paper
    starts it between 0.2 in the first layer and 0.8 in deep ones and reports little difference.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mask: Mask = Causal()
    position: Position = Position()
    position_key: str = ''
    kernel: Kernel = Reference()
    lambda_init: Annotated[float, SHARE] = 0.8
    output_dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    pair_products = 2

    @property
    def kernel_dim(self) -> int:
        return 2 * self.head_dim  # the values' width

    def refusal(self) -> str:
        odd = self.num_heads % 2 or self.num_kv_heads % 2
        return (
            f'needs pairs of heads, but model.num_heads={self.num_heads} and '
            f'model.num_kv_heads={self.num_kv_heads}'
            if odd
            else ''
        )

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        H, G, K = self.num_heads, self.num_kv_heads, self.head_dim
        q_BLHK, k_BLGK = self._project('q', H, 'heads', x_BLD), self._project('k', G, '', x_BLD)
        v_BLGK = self._project('v', G, '', x_BLD)
        q_BLHK, k_BLGK = self.position.rotate(q_BLHK, k_BLGK, context)
        q_BLHK, k_BLGK = named('queries', q_BLHK), named('keys', k_BLGK)
        v_BLGK = named('values', v_BLGK)
        k_BSGK = remember(self, 'keys', k_BLGK, context)
        v_BSGK = remember(self, 'values', v_BLGK, context)
        B, L = x_BLD.shape[:2]
        wide = ((0, 0), (0, 0), (0, 0), (0, K))
        # Kernels take one width: zeros widen queries and keys to that of the values, and √2 makes
        # up for it in the kernel's scale. Each pair of key heads has its two halves of values.
        o_BLHV = self.kernel(
            jnp.pad(q_BLHK * 2**0.5, wide),
            jnp.pad(k_BSGK, wide),
            jnp.repeat(v_BSGK.reshape(*v_BSGK.shape[:2], G // 2, 2 * K), 2, axis=2),
            self.mask & SameSegment(),
            context.replace(bias=context.biases.get(self.position_key)),
        )
        o_BLhmV = o_BLHV.reshape(B, L, H // 2, 2, 2 * K)
        o_BLhV = o_BLhmV[:, :, :, 0] - self._share().astype(x_BLD.dtype) * o_BLhmV[:, :, :, 1]
        o_BLhV = RMSNorm(1e-5, axis='head_dim', name='norm')(o_BLhV) * (1 - self.lambda_init)
        return self.project_out(o_BLhV, x_BLD.shape[-1])

    def _project(self, name: str, heads: int, axis: str, x_BLD: Array) -> Array:
        axes = (axis or 'kv_heads', 'head_dim')
        shape = (heads, self.head_dim)
        rest = {'init': self.init, 'dtype': self.dtype, 'name': name}
        return Linear(shape, ('embed',), axes, **rest)(x_BLD)

    def _share(self) -> Float[Array, '']:
        """λ: how much of the second map is taken away."""
        init = nn.with_logical_partitioning(nn.initializers.normal(0.1), ('head_dim',))
        vectors = [
            self.param(f'lambda_{name}', init, (self.head_dim,))
            for name in ('q1', 'k1', 'q2', 'k2')
        ]
        q1, k1, q2, k2 = vectors
        return jnp.exp(jnp.sum(q1 * k1)) - jnp.exp(jnp.sum(q2 * k2)) + self.lambda_init
