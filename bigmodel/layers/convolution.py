"""Causal convolutions over time that stop at the first token of a document."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.linear import Linear
from bigmodel.layers.stateful import Stateful, keep, recall
from bigmodel.specs import POSITIVE

Width = Annotated[int, POSITIVE]


class DepthwiseConv(nn.Module):
    """y_t = Σ_j w_j ⊙ x_{t−j} + b over the `width` latest tokens of the document, by channel."""

    width: Width
    axes: tuple[str, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B L *c'], starts: Bool[Array, 'P L']
    ) -> Float[Array, '...']:
        channels = x.shape[2:]
        # Not the model's initialisation: that of wide matrices would silence so few taps.
        normal = nn.initializers.normal(self.width**-0.5)
        normal = nn.with_logical_partitioning(normal, ('taps', *self.axes))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes)
        w = self.param('weight', normal, (self.width, *channels)).astype(x.dtype)
        b = self.param('bias', zeros, channels).astype(x.dtype)
        return sum(w[j] * tap for j, tap in enumerate(taps(self, x, starts, self.width))) + b


def taps(
    module: nn.Module, x: Float[Array, 'B L *c'], starts: Bool[Array, 'P L'], width: int
) -> list[Array]:
    """x_t, x_{t−1}, …, `width` in all; 0 where a token lies before its document.

    The last width − 1 tokens are kept in the cache of `module` as 'tail'.
    """
    B, L = x.shape[:2]
    tail = recall(module, 'tail', (B, width - 1, *x.shape[2:]), x.dtype)
    longer = jnp.concatenate([tail, x], 1)
    # The tail holds one document: that of its last token. Others were set to 0 when it was kept.
    document = jnp.cumsum(jnp.broadcast_to(starts, (B, L)), 1, dtype=jnp.int32)
    documents = jnp.concatenate([jnp.zeros((B, width - 1), jnp.int32), document], 1)

    def same(begin: int, end: int, here: Array) -> Array:
        inside = documents[:, begin:end] == here
        return jnp.where(
            inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), longer[:, begin:end], 0
        )

    keep(module, 'tail', same(L, L + width - 1, document[:, -1:]))
    return [same(width - 1 - j, width - 1 - j + L, document) for j in range(width)]


class ShortConv(Stateful):
    """W_o(c ⊙ conv(b ⊙ u)), where b, c, u are projections of x and conv is a depthwise causal
    convolution of `width` tokens: the gated short convolution of H3 and Hyena (Fu et al. 2023,
    Poli et al. 2023) without their long one.
    """

    width: Width = 4

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        D = x_BLD.shape[-1]
        b_BLD, c_BLD, u_BLD = (self.project(n, (D,), ('mlp',))(x_BLD) for n in ('b', 'c', 'u'))
        conv = DepthwiseConv(self.width, ('mlp',), name='conv')
        return self.project_out(c_BLD * conv(b_BLD * u_BLD, context.starts()), D, ('mlp',))


class GatedConv(Stateful):
    """W_o((x∗W + b) ⊙ σ(x∗V + c)), where ∗ is a causal convolution of `width` tokens over all
    channels (Dauphin et al. 2017).
    """

    width: Width = 4

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        D = x_BLD.shape[-1]
        x_BLDW = jnp.stack(taps(self, x_BLD, context.starts(), self.width), -1)
        value_BLD, gate_BLD = (
            Linear(
                (D,), ('embed', 'taps'), ('mlp',), True, 'linear', self.init, self.dtype, name=name
            )(x_BLDW)
            for name in ('value', 'gate')
        )
        return self.project_out(value_BLD * jax.nn.sigmoid(gate_BLD), D, ('mlp',))
