"""Linear, Matrix, ExpertWeight and Embed: the only places where a matrix of weights is born.

Every dim of a weight gets a logical axis name here, and its standard deviation from the model's
initialisation, a function `(role, fan_in) -> std` (see `initializers`).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.matmuls import matmul_of
from bigmodel.sharding import constrain


class Linear(nn.Module):
    """y = x·W + b, contracting the last `len(in_axes)` dims of x.

    Weights have the shape (*in, *features) and are cast to `dtype` for the product.
    """

    features: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    bias: bool = False
    role: str = 'linear'
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        n = len(self.in_axes)
        fan_in = math.prod(x.shape[-n:])
        w = self.param(
            'weight',
            _normal(self.init(self.role, fan_in), (*self.in_axes, *self.out_axes)),
            (*x.shape[-n:], *self.features),
        )
        axes, matmul = (*self.in_axes, *self.out_axes), matmul_of(self, 'weight')
        x, w = x.astype(self.dtype), w.astype(self.dtype)
        y = matmul.contract(x, w, n, axes, matmul.key(self))
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.out_axes)
            y = y + self.param('bias', zeros, self.features).astype(self.dtype)
        return y


class Matrix(nn.Module):
    """The weight of a `Linear`, (width, features), given in `dtype` to be used elsewhere."""

    width: int
    features: int
    axes: tuple[str, str]
    role: str = 'linear'
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, 'D F']:
        normal = _normal(self.init(self.role, self.width), self.axes)
        return self.param('weight', normal, (self.width, self.features)).astype(self.dtype)


class ExpertWeight(nn.Module):
    """A matrix for each expert, (experts, width, features), given in `dtype`.

    Their std has the fan-in of one expert.
    """

    experts: int
    width: int
    features: int
    axes: tuple[str, str]
    role: str = 'linear'
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, 'E D F']:
        normal = _normal(self.init(self.role, self.width), ('experts', *self.axes))
        w_EDF = self.param('weight', normal, (self.experts, self.width, self.features))
        return w_EDF.astype(self.dtype)


class Embed(nn.Module):
    """A table of one vector per id; its transpose is for a tied output head."""

    size: int
    width: int
    axes: tuple[str, str] = ('vocab', 'embed')
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        std = self.init('embed', self.width)
        self.table_VD = self.param('table', _normal(std, self.axes), (self.size, self.width))

    def __call__(self, ids: Int[Array, '*s']) -> Float[Array, '*s D']:
        """The vectors of `ids`."""
        # Gathered over the width first, as every weight is: a lookup in a table that is split by
        # width would leave the activations split that way.
        table_VD = constrain(self.table_VD.astype(self.dtype), self.axes[0], None)
        return jnp.take(table_VD, ids, axis=0)

    def transposed(self, dtype: DTypeLike) -> Float[Array, 'D V']:
        """The vectors as columns."""
        return self.table_VD.T.astype(dtype)


def _normal(std: float, axes: tuple[str, ...]) -> Callable[..., jax.Array]:
    init = nn.initializers.normal(std) if std else nn.initializers.zeros
    return nn.with_logical_partitioning(init, axes)
