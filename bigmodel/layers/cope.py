"""Contextual position encoding: distances that count what the query finds worth counting."""

from typing import Annotated

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Bias, Context, Coordinates
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed
from bigmodel.layers.masks import Mask
from bigmodel.layers.position import Position
from bigmodel.specs import POSITIVE


class Cope(Position):
    """Adds q_i·e[p_ij] to the logits, p_ij = Σ_{t=j..i} σ(q_i·k_t/√K) over the keys that query i
    may see, and e between two whole numbers is their interpolation (Golovneva et al. 2024).

    Counts stop at `num_positions` − 1. The vectors e are each layer's own, shared by its heads.
    """

    num_positions: Annotated[int, POSITIVE] = 64
    init: Init = fan_in

    @nn.compact
    def contextual_bias(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
    ) -> Bias:
        B, L, H, K = q_BLHK.shape
        axes = ('positions', 'head_dim')
        counts = Embed(self.num_positions, K, axes, self.init, name='counts')
        table_NK = counts.table_VD.astype(jnp.float32)
        q_BLGRK = q_BLHK.reshape(B, L, k_BSGK.shape[2], -1, K)
        logits_BHLS = jnp.einsum('BLGRK,BSGK->BGRLS', q_BLGRK, k_BSGK).reshape(B, H, L, -1)
        seen_BLS = mask(context.queries, context.keys)
        gate_BHLS = jax.nn.sigmoid(logits_BHLS.astype(jnp.float32) * K**-0.5) * seen_BLS[:, None]
        count_BHLS = jnp.cumsum(gate_BHLS[..., ::-1], -1)[..., ::-1]
        value_BHLN = jnp.einsum('BLHK,NK->BHLN', q_BLHK.astype(jnp.float32), table_NK)
        return GivenBias(interpolate(value_BHLN, count_BHLS))


@flax.struct.dataclass
class GivenBias(Bias):
    """A bias that is there already, for exactly the queries and keys of one attention layer."""

    bias_BHLS: Float[Array, 'B H L S']

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[Array, 'B H L S']:
        return self.bias_BHLS


def interpolate(
    value_BHLN: Float[Array, 'B H L N'], at_BHLS: Float[Array, 'B H L S']
) -> Float[Array, 'B H L S']:
    """Row by row, the piecewise linear function through (n, value[n]), constant beyond its ends."""
    last = value_BHLN.shape[-1] - 1
    at_BHLS = jnp.clip(at_BHLS, 0, last)
    below = jnp.floor(at_BHLS).astype(jnp.int32)
    share = at_BHLS - below
    low = jnp.take_along_axis(value_BHLN, below, -1)
    high = jnp.take_along_axis(value_BHLN, jnp.minimum(below + 1, last), -1)
    return low + share * (high - low)
