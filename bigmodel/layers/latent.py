"""Multi-head latent attention: keys and values from one small vector a token."""

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
from bigmodel.specs import NOT_NEGATIVE, POSITIVE


class LatentAttention(Mixer):
    """Attention with keys [W_UK c; k_R] and values W_UV c of a latent c = norm(W_DKV x).

    DeepSeek-V2 (2024, §2.1), "MLA". k_R = R(W_KR x) of width `rope_dim` is rotated and shared by
    all heads, queries have such a part each; the latent and k_R are all that decoding keeps.
    `rank` is the latent's width, `q_rank` that of the queries' own (0: queries come from x).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mask: Mask = Causal()
    position: Position = Position()
    position_key: str = ''
    kernel: Kernel = Reference()
    rank: Annotated[int, POSITIVE] = 64
    q_rank: Annotated[int, NOT_NEGATIVE] = 0
    rope_dim: Annotated[int, POSITIVE] = 16
    output_dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    pair_products = 2

    @property
    def kernel_dim(self) -> int:
        return self.head_dim + self.rope_dim

    def refusal(self) -> str:
        if self.num_kv_heads != self.num_heads:
            return (
                f'needs keys for each head, which share the latent, but model.num_kv_heads='
                f'{self.num_kv_heads} groups model.num_heads={self.num_heads}'
            )
        reason = self.position.refusal(self.rope_dim).replace('head_dim', 'rope_dim')
        return f'needs a rope_dim that model.position can use, but it {reason}' if reason else ''

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        K, P = self.head_dim, self.rope_dim
        q_BLHQ = self._queries(x_BLD)
        q_BLHN, q_BLHP = jnp.split(q_BLHQ, (K,), axis=-1)
        c_BLR = self._latent('kv', self.rank, x_BLD)
        k_BL1P = self._linear('k_rope', (P,), ('head_dim',), x_BLD)[:, :, None]
        q_BLHP, k_BL1P = self.position.rotate(q_BLHP, k_BL1P, context)
        c_BSR = remember(self, 'latent', c_BLR, context)
        k_BS1P = remember(self, 'rotated', k_BL1P, context)
        k_BSHN = self._up('k_up', c_BSR)
        k_BSHP = jnp.broadcast_to(k_BS1P, (*k_BSHN.shape[:3], P))
        # Kernels take one width: zeros widen the values, and their part of the output is dropped.
        v_BSHK = self._up('v_up', c_BSR)
        o_BLHK = self.kernel(
            named('queries', jnp.concatenate([q_BLHN, q_BLHP], -1)),
            named('keys', jnp.concatenate([k_BSHN, k_BSHP], -1)),
            named('values', jnp.pad(v_BSHK, ((0, 0), (0, 0), (0, 0), (0, P)))),
            self.mask & SameSegment(),
            context.replace(bias=context.biases.get(self.position_key)),
        )[..., :K]
        return self.project_out(o_BLHK, x_BLD.shape[-1])

    def _queries(self, x_BLD: Array) -> Float[Array, 'B L H Q']:
        shape, axes = (self.num_heads, self.head_dim + self.rope_dim), ('heads', 'head_dim')
        if not self.q_rank:
            return self._linear('q', shape, axes, x_BLD)
        c_BLR = self._latent('q', self.q_rank, x_BLD)
        return self._linear('q_up', shape, axes, c_BLR, 'latent')

    def _latent(self, name: str, rank: int, x_BLD: Array) -> Float[Array, 'B L R']:
        c_BLR = self._linear(f'{name}_down', (rank,), ('latent',), x_BLD)
        return RMSNorm(axis='latent', name=f'{name}_norm')(c_BLR)

    def _up(self, name: str, c_BSR: Array) -> Float[Array, 'B S H K']:
        shape, axes = (self.num_heads, self.head_dim), ('heads', 'head_dim')
        return self._linear(name, shape, axes, c_BSR, 'latent')

    def _linear(
        self,
        name: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        x: Array,
        in_axis: str = 'embed',
    ) -> Array:
        rest = {'init': self.init, 'dtype': self.dtype, 'name': name}
        return Linear(shape, (in_axis,), axes, **rest)(x)
