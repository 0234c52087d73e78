"""What a mixer keeps of the tokens so far, while it decodes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from bigmodel.layers.coordinates import Context


def remember(module: nn.Module, name: str, x_BL: Array, context: Context) -> Array:
    """Writes a value per token, (B, L, …), to the cache and returns that of all its slots.

    Without a mutable 'cache' collection, and in an encoder, it returns its input.
    """
    if context.aligned or not module.is_mutable_collection('cache'):
        return x_BL
    B, _, *rest = x_BL.shape
    shape = (B, context.keys.index.shape[0], *rest)
    cached = module.variable('cache', name, jnp.zeros, shape, x_BL.dtype)
    at = (0, context.queries.index[0], *[0] * len(rest))
    cached.value = jax.lax.dynamic_update_slice(cached.value, x_BL, at)
    return cached.value


def keep(module: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, made once for all tokens that are decoded.

    Without a mutable 'cache' collection it is made anew.
    """
    if not module.is_mutable_collection('cache'):
        return make()
    return module.variable('cache', name, make).value
