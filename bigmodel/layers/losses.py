"""What layers add to the loss or report: a part calls `add_loss` or `report`, the step collects.

Nothing is computed when nobody collects: a collection that is not asked for takes no values.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

LOSSES = 'losses'
REPORTS = 'reports'


def add_loss(module: nn.Module, name: str, value: Float[Array, '']) -> None:
    """Adds `value` (a mean over tokens, times its coefficient) to the training loss as `name`."""
    module.sow(
        LOSSES, name, value.astype(jnp.float32), reduce_fn=jnp.add, init_fn=lambda: jnp.float32(0)
    )


def report(module: nn.Module, name: str, value: Float[Array, '']) -> None:
    """Hands `value` (a mean over tokens) to the metrics as `name`; the loss is not changed."""
    last = lambda _, new: new.astype(jnp.float32)  # noqa: E731
    module.sow(REPORTS, name, value, reduce_fn=last, init_fn=lambda: jnp.float32(0))


def total_losses(sown: Mapping[str, Any]) -> dict[str, Float[Array, '']]:
    """Name -> the sum of what all layers added under it."""
    return {name: jnp.sum(each) for name, each in _by_name(sown, LOSSES).items()}


def mean_reports(sown: Mapping[str, Any]) -> dict[str, Float[Array, '']]:
    """Name -> the mean of what layers reported under it."""
    return {name: jnp.mean(each) for name, each in _by_name(sown, REPORTS).items()}


def _by_name(sown: Mapping[str, Any], collection: str) -> dict[str, Float[Array, ' n']]:
    """Name -> the values of all layers."""
    found: dict[str, list[Array]] = {}
    for path, value in jax.tree_util.tree_flatten_with_path(sown.get(collection, {}))[0]:
        found.setdefault(path[-1].key, []).append(jnp.ravel(value))
    return {name: jnp.concatenate(values) for name, values in found.items()}
