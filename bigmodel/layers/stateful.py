"""What recurrent and convolutional mixers share: projections, and a state kept for decoding."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Linear
from bigmodel.layers.mixer import Mixer


class Stateful(Mixer, kw_only=True):
    """A mixer that reads from left to right and remembers a state: of constant size, but for
    `long_conv`, which keeps its inputs.
    """

    output_dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def project(
        self, name: str, features: Sequence[int], axes: Sequence[str], bias: bool = False
    ) -> Linear:
        """A projection of the residual stream to `features`."""
        rest = (bias, 'linear', self.init, self.dtype)
        return Linear(tuple(features), ('embed',), tuple(axes), *rest, name=name)


class Vector(nn.Module):
    """Parameters that are no matrix, called 'scale': `optimizer.decay` leaves them alone, because a
    decay rate that weight decay draws to 0 is another one.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    start: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> Float[Array, '...']:
        start = nn.with_logical_partitioning(self.start, self.axes)
        return self.param('scale', start, self.shape)


def recall(
    module: nn.Module, name: str, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Float[Array, '...']:
    """What `keep` stored under `name`; zeros at first, and without a mutable 'cache'."""
    if not module.is_mutable_collection('cache'):
        return jnp.zeros(shape, dtype)
    return module.variable('cache', name, jnp.zeros, tuple(shape), dtype).value


def keep(module: nn.Module, name: str, value: Float[Array, '...']) -> None:
    """Stores `value` for the tokens to come; without a mutable 'cache' it does nothing."""
    if module.is_mutable_collection('cache'):
        module.put_variable('cache', name, value)
