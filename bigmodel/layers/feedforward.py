"""Dense feed-forward layers: what each position computes on its own."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bigmodel.errors import unknown
from bigmodel.layers.dropout import Dropout
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Linear
from bigmodel.layers.names import named
from bigmodel.specs import NOT_NEGATIVE

ACTIVATIONS: dict[str, Callable] = {
    'relu': jax.nn.relu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
    'silu': jax.nn.silu,
    'tanh': jnp.tanh,
    'sigmoid': jax.nn.sigmoid,
    'relu2': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021 (Primer)
}


class FeedForward(nn.Module):
    """Base of all feed-forward layers."""

    activation: str = 'gelu'
    causal = True  # whether no token's output depends on a later one

    def refusal(self) -> str:
        """Why its own fields cannot work together ('needs …, but …'), or ''."""
        activation(self.activation)
        return ''

    def active_share(self) -> float:
        """The share of its experts' weights that one token is multiplied with."""
        return 1.0

    def __call__(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
        """What each token computes from itself; a mixture with places for few, from its row."""
        raise NotImplementedError


class Dense(FeedForward):
    """Base of layers whose every weight serves every token: W₂ times hidden units of x."""

    hidden: Annotated[int, NOT_NEGATIVE] = 0
    bias: bool = False
    dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def units(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L F']:
        """The hidden units."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
        rest = (self.bias, 'residual', self.init, self.dtype)
        out = Linear((x_BLD.shape[-1],), ('mlp',), ('embed',), *rest, name='out')
        hidden_BLF = named('ffn_hidden', self.units(x_BLD))
        return Dropout(self.dropout)(out(hidden_BLF))

    def _into(self, hidden: int, name: str, x_BLD: Array) -> Float[Array, 'B L F']:
        rest = (self.bias, 'linear', self.init, self.dtype)
        into = Linear((hidden,), ('embed',), ('mlp',), *rest, name=name)
        return named('ffn_in', into(x_BLD))


class MLP(Dense):
    """W₂·activation(W₁·x) (Vaswani et al. 2017, §3.3); `hidden` 0 is 4·width."""

    def units(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L F']:
        hidden = self.hidden or 4 * x_BLD.shape[-1]
        return activation(self.activation)(self._into(hidden, 'in', x_BLD))


class Gated(Dense):
    """W₂·(activation(W_g·x) ⊙ W₁·x): SwiGLU with silu, GEGLU with gelu (Shazeer 2020).

    GLU is sigmoid (Dauphin et al. 2017), ReGLU relu.

    `hidden` 0 is 8/3·width rounded up to a multiple of 64, as many parameters as an MLP.
    """

    activation: str = 'silu'

    def units(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L F']:
        hidden = self.hidden or gated_hidden(x_BLD.shape[-1])
        gate_BLF = activation(self.activation)(self._into(hidden, 'gate', x_BLD))
        return gate_BLF * self._into(hidden, 'in', x_BLD)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation called `name`."""
    if name not in ACTIVATIONS:
        raise unknown('activation', name, ACTIVATIONS)
    return ACTIVATIONS[name]


def gated_hidden(width: int) -> int:
    """8/3·width rounded up to a multiple of 64."""
    return -(-8 * width // (3 * 64)) * 64
