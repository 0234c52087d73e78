"""Normalisations over the last dim; statistics are float32 whatever the compute dtype."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class RMSNorm(nn.Module):
    """x / √(mean x² + eps) · scale (Zhang & Sennrich 2019)."""

    eps: float = 1e-6
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
        return (y * _vector(self, 'scale', nn.initializers.ones, x)).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + eps) · scale + bias (Ba et al. 2016)."""

    eps: float = 1e-5
    bias: bool = True
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, -1, keepdims=True)
        variance = jnp.mean(centred * centred, -1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        y = y * _vector(self, 'scale', nn.initializers.ones, x)
        if self.bias:
            y = y + _vector(self, 'bias', nn.initializers.zeros, x)
        return y.astype(x.dtype)


class NoNorm(nn.Module):
    """Returns its input."""

    axis: str = 'embed'

    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        return x


NORMS = {'rmsnorm': RMSNorm, 'layernorm': LayerNorm, 'none': NoNorm}


def _vector(module: nn.Module, name: str, init: nn.initializers.Initializer, x: Array) -> Array:
    return module.param(name, nn.with_logical_partitioning(init, (module.axis,)), x.shape[-1:])
