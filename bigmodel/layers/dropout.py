"""Dropout of entries and of branches, on exactly when the caller passes a 'dropout' rng."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Zeroes a share `rate` of the entries and scales the rest (Srivastava et al. 2014)."""

    rate: float

    def __call__(self, x: Float[Array, '*s']) -> Float[Array, '*s']:
        if not self.rate or not self.has_rng('dropout'):
            return x
        keep = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class StochasticDepth(nn.Module):
    """Drops a branch for a share `rate` of the rows and scales the others (Huang et al. 2016)."""

    rate: float

    def __call__(self, x: Float[Array, 'B *s']) -> Float[Array, 'B *s']:
        if not self.rate or not self.has_rng('dropout'):
            return x
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        keep = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
