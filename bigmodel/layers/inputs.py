"""Inputs: what turns what a batch holds into the first residual stream."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.errors import UserError
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed


class Inputs(nn.Module):
    """Base of all inputs."""

    @nn.nowrap
    def example(self, length: int) -> Array:
        """Inputs of one row that become `length` tokens."""
        raise NotImplementedError

    def __call__(
        self, inputs: Array, positions_BL: Int[Array, 'P L'] | None = None
    ) -> tuple[Float[Array, 'B L D'], Int[Array, 'P L'] | None]:
        """The vectors of the inputs, and their positions (None: 0, 1, …)."""
        raise NotImplementedError

    def attend(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """The product with the vector of every token, for a tied head."""
        raise UserError(
            "model.head: 'lm(tied=True)' needs a table of tokens, which model.inputs does not "
            'have; use lm(tied=False) or a classifier'
        )


class Tokens(Inputs):
    """A learned vector for each token; with `scale` times √width (Vaswani et al. 2017, §3.4)."""

    vocab_size: int
    width: int
    scale: bool = False
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.tokens = Embed(self.vocab_size, self.width, init=self.init, dtype=self.dtype)

    @nn.nowrap
    def example(self, length: int) -> Int[Array, '1 L']:
        return jnp.zeros((1, length), jnp.int32)

    def __call__(
        self, inputs: Int[Array, 'B L'], positions_BL: Int[Array, 'P L'] | None = None
    ) -> tuple[Float[Array, 'B L D'], Int[Array, 'P L'] | None]:
        x_BLD = self.tokens(inputs)
        if self.scale:
            x_BLD = x_BLD * jnp.sqrt(self.width).astype(x_BLD.dtype)
        return x_BLD, positions_BL

    def attend(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        return self.tokens.attend(x_BLD)


INPUTS = {'tokens': Tokens}
