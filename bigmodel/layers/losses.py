"""What layers add to the loss: a part calls `add_loss`, the training step collects.

Nothing is computed when nobody collects: a collection that is not asked for takes no values.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

LOSSES = 'losses'


def add_loss(module: nn.Module, name: str, value: Float[Array, '']) -> None:
    """Adds `value` (a mean over tokens, times its coefficient) to the training loss as `name`."""
    module.sow(
        LOSSES, name, value.astype(jnp.float32), reduce_fn=jnp.add, init_fn=lambda: jnp.float32(0)
    )


def total_losses(sown: Mapping[str, Any]) -> dict[str, Float[Array, '']]:
    """Name -> the sum of what all layers added under it."""
    total: dict[str, Array] = {}
    for path, value in jax.tree_util.tree_flatten_with_path(dict(sown))[0]:
        name = path[-1].key
        total[name] = total.get(name, 0) + jnp.sum(value)
    return total
