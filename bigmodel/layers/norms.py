"""Normalisations over the last dim; statistics are float32 whatever the compute dtype."""

from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.specs import NOT_NEGATIVE, POSITIVE


class RMSNorm(nn.Module):
    """x / √(mean x² + eps) · scale (Zhang & Sennrich 2019).

    With `plus_one` the factor is 1 + scale and scale starts at 0, so that decay pulls it to the
    identity (Gemma Team 2024).
    """

    eps: Annotated[float, NOT_NEGATIVE] = 1e-6
    plus_one: bool = False
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        if self.plus_one:
            scale = 1 + _vector(self, 'scale', nn.initializers.zeros, x)
        else:
            scale = _vector(self, 'scale', nn.initializers.ones, x)
        return standardise(x.astype(jnp.float32), scale, self.eps, False).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + eps) · scale + bias (Ba et al. 2016)."""

    eps: Annotated[float, NOT_NEGATIVE] = 1e-5
    bias: bool = True
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        scale = _vector(self, 'scale', nn.initializers.ones, x)
        y = standardise(x.astype(jnp.float32), scale, self.eps, True)
        if self.bias:
            y = y + _vector(self, 'bias', nn.initializers.zeros, x)
        return y.astype(x.dtype)


class DyT(nn.Module):
    """tanh(α·x) · scale + bias, one learned α: no statistics (dynamic tanh, Zhu et al. 2025).

    `alpha` is where α starts.
    """

    alpha: Annotated[float, POSITIVE] = 0.5
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        start = nn.with_logical_partitioning(nn.initializers.constant(self.alpha), ())
        alpha = self.param('alpha', start, ())
        y = jnp.tanh(alpha * x.astype(jnp.float32))
        y = y * _vector(self, 'scale', nn.initializers.ones, x)
        return (y + _vector(self, 'bias', nn.initializers.zeros, x)).astype(x.dtype)


class NoNorm(nn.Module):
    """Returns its input."""

    axis: str = 'embed'

    def __call__(self, x: Float[Array, '*s D']) -> Float[Array, '*s D']:
        return x


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def standardise(
    x: Float[Array, '*s D'], scale: Float[Array, ' D'], eps: float, centre: bool
) -> Float[Array, '*s D']:
    """Divides by the root mean square (of the deviations from the mean with `centre`), scales.

    The backward pass is written out: it needs two means, where autodiff makes six passes over x
    (measured on CPU: a quarter of a small model's step).
    """
    return _standardise(x, eps, centre)[0] * scale


def _standardise(x: Array, eps: float, centre: bool) -> tuple[Array, Array]:
    if centre:
        x = x - jnp.mean(x, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * inverse, inverse


def _forward(x: Array, scale: Array, eps: float, centre: bool) -> tuple[Array, tuple]:
    unit, inverse = _standardise(x, eps, centre)
    return unit * scale, (unit, inverse, scale)


def _backward(eps: float, centre: bool, saved: tuple, dy: Array) -> tuple[Array, Array]:
    unit, inverse, scale = saved
    d = dy * scale
    dx = d - unit * jnp.mean(d * unit, -1, keepdims=True)
    if centre:
        dx = dx - jnp.mean(d, -1, keepdims=True)
    return dx * inverse, jnp.sum(dy * unit, axis=tuple(range(dy.ndim - 1)))


standardise.defvjp(_forward, _backward)

NORMS = {'rmsnorm': RMSNorm, 'layernorm': LayerNorm, 'dyt': DyT, 'none': NoNorm}


def _vector(module: nn.Module, name: str, init: nn.initializers.Initializer, x: Array) -> Array:
    return module.param(name, nn.with_logical_partitioning(init, (module.axis,)), x.shape[-1:])
