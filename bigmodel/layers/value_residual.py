"""Value residual: attention whose values hold on to those of the first layer."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from bigmodel.layers.attention import Attention
from bigmodel.layers.coordinates import Context


class ValueResidual(Attention):
    """Attention over λ₁·V of the first layer + λ₂·V of this one, both λ learned, from ½
    (Zhou et al. 2024, ResFormer with learned mixing).

    The first layer is the model's first that has this mixer; its own values are both.
    """

    def carries(self) -> dict[str, tuple[int, ...]]:
        return {'values': (self.num_kv_heads, self.head_dim), 'has_values': ()}

    def _mix(self, v_BLGK: Array, context: Context) -> Array:
        carried = context.carried
        there_BLGK = carried['has_values'][:, :, None, None] > 0
        first_BLGK = jnp.where(there_BLGK, carried['values'], v_BLGK)
        carried |= {'values': first_BLGK, 'has_values': jnp.ones_like(carried['has_values'])}
        half = nn.with_logical_partitioning(nn.initializers.constant(0.5), ())
        of_first, own = (self.param(name, half, ()) for name in ('first_share', 'own_share'))
        return of_first.astype(v_BLGK.dtype) * first_BLGK + own.astype(v_BLGK.dtype) * v_BLGK

    def _project(self, x_BLD: Array, context: Context) -> tuple[Array, Array, Array]:
        q_BLHK, k_BLGK, v_BLGK = super()._project(x_BLD, context)
        return q_BLHK, k_BLGK, self._mix(v_BLGK, context)
