"""The table of position encodings, and those that are added to the embeddings.

Rotations of queries and keys are in `rotary`, what is added to the logits in `biases` and `cope`.
To add an encoding, write one class and one line in `POSITIONS`.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.biases import T5, Alibi, Fire, Kerple
from bigmodel.layers.cope import Cope
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed
from bigmodel.layers.position import Position
from bigmodel.layers.rotary import Rope, Rope2D, XPos
from bigmodel.specs import POSITIVE


class Sinusoidal(Position):
    """PE(pos, 2i) = sin(pos / base^(2i/D)), PE(pos, 2i+1) = cos(same), added to the embeddings.

    Vaswani et al. 2017, §3.5.
    """

    base: Annotated[float, POSITIVE] = 10000.0

    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        return x_BLD + sinusoids(pos, x_BLD.shape[-1], self.base).astype(x_BLD.dtype)


class Learned(Position):
    """One learned vector for each of `max_length` positions (Devlin et al. 2018, GPT-2)."""

    max_length: int
    init: Init = fan_in

    @nn.compact
    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        width = x_BLD.shape[-1]
        table = Embed(self.max_length, width, ('positions', 'embed'), self.init, name='embed')
        return x_BLD + table(pos).astype(x_BLD.dtype)


class Sinusoidal2D(Position):
    """The sinusoids of the patch's row in the first half of the features, those of its column in
    the second, position = row·columns + column (He et al. 2021, after Vaswani et al. 2017).
    """

    columns: Annotated[int, POSITIVE] = 14  # of 16-pixel patches in an image of 224
    base: Annotated[float, POSITIVE] = 10000.0

    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        half = x_BLD.shape[-1] // 2
        row = sinusoids(pos // self.columns, half, self.base)
        column = sinusoids(pos % self.columns, x_BLD.shape[-1] - half, self.base)
        return x_BLD + jnp.concatenate([row, column], -1).astype(x_BLD.dtype)


class Learned2D(Position):
    """A learned vector for each row in the first half of the features and for each column in the
    second, position = row·columns + column (Dosovitskiy et al. 2020, appendix D.4).
    """

    max_length: int
    columns: Annotated[int, POSITIVE] = 14  # of 16-pixel patches in an image of 224
    init: Init = fan_in

    @nn.compact
    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        half, axes = x_BLD.shape[-1] // 2, ('positions', 'embed')
        rows = Embed(-(-self.max_length // self.columns), half, axes, self.init, name='rows')
        columns = Embed(self.columns, x_BLD.shape[-1] - half, axes, self.init, name='columns')
        added = jnp.concatenate([rows(pos // self.columns), columns(pos % self.columns)], -1)
        return x_BLD + added.astype(x_BLD.dtype)


POSITIONS = {
    'none': Position,
    'sinusoidal': Sinusoidal,
    'learned': Learned,
    'sinusoidal_2d': Sinusoidal2D,
    'learned_2d': Learned2D,
    'rope': Rope,
    'rope_2d': Rope2D,
    'xpos': XPos,
    'alibi': Alibi,
    't5': T5,
    'kerple': Kerple,
    'fire': Fire,
    'cope': Cope,
}


def sinusoids(pos: Int[Array, 'P L'], width: int, base: float) -> Float[Array, 'P L D']:
    """The table of Vaswani et al. 2017: sines in even features, cosines in odd ones."""
    frequency = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = pos[..., None].astype(jnp.float32) * frequency
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    return pairs.reshape(*pos.shape, -1)[..., :width]
