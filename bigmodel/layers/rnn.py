"""The classical recurrent networks, GRU and LSTM: truly sequential, one scan over time."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Linear
from bigmodel.layers.stateful import Stateful, keep, recall
from bigmodel.specs import NOT_NEGATIVE

Size = Annotated[int, NOT_NEGATIVE]


class Cell(nn.Module):
    """One step of a recurrent network: `gates` projections of the last output, and the rest."""

    init: Init = fan_in

    gates = 0
    states = 1

    @nn.compact
    def __call__(
        self, carry: Float[Array, 'S B F'], inputs: tuple[Float[Array, 'B I F'], Bool[Array, ' B']]
    ) -> tuple[Array, Array]:
        x_BIF, start_B = inputs
        carry = jnp.where(start_B[:, None], 0, carry)
        features = (self.gates, carry.shape[-1])
        rest = (True, 'linear', self.init, jnp.float32)
        h_BIF = Linear(features, ('state',), ('gates', 'mlp'), *rest, name='hidden')(carry[0])
        carry = self.step(carry, x_BIF, h_BIF)
        return carry, carry[0]

    def step(self, carry: Array, x_BIF: Array, h_BIF: Array) -> Array:
        """The next states, the output first, from the projections of input and last output."""
        raise NotImplementedError


class GRUCell(Cell):
    """See `GRU`."""

    gates = 3

    def step(self, carry: Array, x_BIF: Array, h_BIF: Array) -> Array:
        """One step."""
        r, z = (jax.nn.sigmoid(x_BIF[:, i] + h_BIF[:, i]) for i in (0, 1))
        n = jnp.tanh(x_BIF[:, 2] + r * h_BIF[:, 2])
        return (1 - z) * n + z * carry


class LSTMCell(Cell):
    """See `LSTM`."""

    gates = 4
    states = 2

    def step(self, carry: Array, x_BIF: Array, h_BIF: Array) -> Array:
        """One step."""
        i, f, g, o = (x_BIF[:, j] + h_BIF[:, j] for j in range(4))
        c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.stack([jax.nn.sigmoid(o) * jnp.tanh(c), c])


class Recurrent(Stateful):
    """W_o·h, where h is what a cell of `hidden` units (0: the width) puts out, token by token."""

    hidden: Size = 0

    cell = Cell

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        B, L, D = x_BLD.shape
        F = self.hidden or D
        x_BLIF = self.project('in', (self.cell.gates, F), ('gates', 'mlp'))(x_BLD)
        starts_BL = jnp.broadcast_to(context.starts(), (B, L))
        over_time = nn.scan(
            self.cell,
            variable_broadcast='params',
            split_rngs={'params': False},
            in_axes=1,
            out_axes=1,
        )
        # Kept with rows first, as everything in the cache is.
        carry = recall(self, 'state', (B, self.cell.states, F)).swapaxes(0, 1)
        inputs = (x_BLIF.astype(jnp.float32), starts_BL)
        carry, h_BLF = over_time(self.init, name='cell')(carry, inputs)
        keep(self, 'state', carry.swapaxes(0, 1))
        return self.project_out(h_BLF.astype(self.dtype), D, ('mlp',))


class GRU(Recurrent):
    """h_t = (1−z)⊙n + z⊙h_{t−1} with n = tanh(W_n·x + r⊙(U_n·h_{t−1} + c_n)) and gates
    r, z = σ(W·x + U·h_{t−1} + c) (Cho et al. 2014; the reset gate after the product, as in cuDNN).
    """

    cell = GRUCell


class LSTM(Recurrent):
    """c_t = σ(f)⊙c_{t−1} + σ(i)⊙tanh(g), h_t = σ(o)⊙tanh(c_t) with i, f, g, o = W·x + U·h_{t−1} + b
    (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000).
    """

    cell = LSTMCell
