"""Inputs: what turns what a batch holds into the first residual stream."""

import math
from typing import Annotated, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from bigmodel.errors import UserError
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed, Linear
from bigmodel.sharding import into_branch
from bigmodel.specs import POSITIVE


class Layout(NamedTuple):
    """What a row of inputs becomes: so many tokens, in rows of `columns` (0: along a line)."""

    length: int
    columns: int = 0


class Inputs(nn.Module):
    """Base of all inputs."""

    key = ''  # the field of a batch that they read

    @nn.nowrap
    def layout(self, shape: tuple[int, ...]) -> Layout:
        """What a row of this shape becomes; raises UserError for one that cannot be read."""
        raise NotImplementedError

    @nn.nowrap
    def example(self, length: int) -> Array:
        """Inputs of one row that become `length` tokens."""
        raise NotImplementedError

    @nn.nowrap
    def check_hidden(self, height: int, width: int) -> None:
        """Raises UserError where rectangles of so many pixels cannot be hidden."""
        raise UserError(
            'model.inputs cannot hide what the task hides; use patches(mask_token=True)'
        )

    def __call__(
        self,
        inputs: Array,
        positions_BL: Int[Array, 'P L'] | None = None,
        hidden_BRC: Bool[Array, 'B R C'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Int[Array, 'P L'] | None]:
        """The vectors of the inputs, and their positions (None: 0, 1, …).

        Of what is hidden, R × C rectangles of an image, they say nothing.
        """
        raise NotImplementedError

    def unembedding(self, dtype: DTypeLike) -> Float[Array, 'D V']:
        """The vector of every token as a column, for a tied head."""
        raise UserError(
            "model.head: 'lm(tied=True)' needs a table of tokens, which model.inputs does not "
            'have; use lm(tied=False) or a classifier'
        )

    def patches_of(self, x_BLD: Float[Array, 'B L D']) -> tuple[Float[Array, 'B N D'], int]:
        """The vectors of an image's patches alone, and how many numbers a patch has."""
        raise UserError(
            "model.head='pixels' predicts patches, which model.inputs does not have; use patches, "
            'or another head'
        )


class Tokens(Inputs):
    """A learned vector for each token; with `scale` times √width (Vaswani et al. 2017, §3.4)."""

    vocab_size: int
    width: int
    scale: bool = False
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    key = 'tokens'

    def setup(self) -> None:
        self.tokens = Embed(self.vocab_size, self.width, init=self.init, dtype=self.dtype)

    @nn.nowrap
    def layout(self, shape: tuple[int, ...]) -> Layout:
        return Layout(*shape)

    @nn.nowrap
    def example(self, length: int) -> Int[Array, '1 L']:
        return jnp.zeros((1, length), jnp.int32)

    def __call__(
        self,
        inputs: Int[Array, 'B L'],
        positions_BL: Int[Array, 'P L'] | None = None,
        hidden_BRC: Bool[Array, 'B R C'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Int[Array, 'P L'] | None]:
        if hidden_BRC is not None:
            self.check_hidden(1, 1)
        # A table that is split by tokens is read for whole rows: no device has all of the table.
        x_BLD = into_branch(self.tokens(inputs))
        if self.scale:
            x_BLD = x_BLD * jnp.sqrt(self.width).astype(x_BLD.dtype)
        return x_BLD, positions_BL

    def unembedding(self, dtype: DTypeLike) -> Float[Array, 'D V']:
        return self.tokens.transposed(dtype)


class Patches(Inputs):
    """Squares of `size` × `size` pixels, flattened row by row, through one linear map; with
    `class_token` a learned vector comes first (Dosovitskiy et al. 2020), with `mask_token` another
    one takes the place of patches that are hidden (Xie et al. 2022).

    Pixels of 8 bits become x/127.5 − 1, as there; floats are taken as they are. Positions count
    patches from 0, row by row. The class token shares position 0 with the first patch, so that
    those in two dimensions need not know of it: nothing is lost, as its own vector can make up for
    any vector that is added there. Relative biases, which count slots, see it one before the first.
    """

    width: int
    size: Annotated[int, POSITIVE] = 16
    channels: Annotated[int, POSITIVE] = 3
    class_token: bool = False
    mask_token: bool = False
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    key = 'image'

    @nn.nowrap
    def layout(self, shape: tuple[int, ...]) -> Layout:
        height, width, channels = shape
        if channels != self.channels:
            raise UserError(
                f'model.inputs: patches(channels={self.channels}), but the images have {channels}; '
                f'set channels={channels}'
            )
        if height % self.size or width % self.size:
            raise UserError(
                f'model.inputs: patches(size={self.size}) does not divide images of '
                f'{height}×{width} pixels; choose a size that does'
            )
        columns = width // self.size
        return Layout(height // self.size * columns + self.class_token, columns)

    @nn.nowrap
    def example(self, length: int) -> UInt8[Array, '1 height width channels']:
        """An image of one row of patches."""
        shape = (1, self.size, self.size * (length - self.class_token), self.channels)
        return jnp.zeros(shape, jnp.uint8)

    @nn.nowrap
    def check_hidden(self, height: int, width: int) -> None:
        if not self.mask_token:
            raise UserError(
                f'model.inputs: patches(size={self.size}) has nothing to put where the task hides '
                f'pixels; set mask_token=True'
            )
        if height % self.size or width % self.size:
            raise UserError(
                f'model.inputs: patches(size={self.size}) does not divide the {height}×{width} '
                f'pixels that the task hides at once; give the task a multiple of {self.size}'
            )

    @nn.compact
    def __call__(
        self,
        inputs: UInt8[Array, 'B height width channels'] | Float[Array, 'B height width channels'],
        positions_BL: Int[Array, 'P L'] | None = None,
        hidden_BRC: Bool[Array, 'B R C'] | None = None,
    ) -> tuple[Float[Array, 'B N D'], Int[Array, 'P N']]:
        length = self.layout(inputs.shape[1:]).length
        rest = (True, 'linear', self.init, self.dtype)
        patch = Linear((self.width,), ('pixels',), ('embed',), *rest, name='patch')
        x_BLD = patch(flat_patches(pixels(inputs), self.size))
        if hidden_BRC is not None:
            _, rows, columns = hidden_BRC.shape
            self.check_hidden(inputs.shape[1] // rows, inputs.shape[2] // columns)
        if self.mask_token:
            x_BLD = self._hide(x_BLD, hidden_BRC, inputs.shape)
        position_L = jnp.maximum(jnp.arange(length, dtype=jnp.int32) - self.class_token, 0)
        if self.class_token:
            first_D = self._vector('class_token', x_BLD.dtype)
            first_B1D = jnp.broadcast_to(first_D, (len(x_BLD), 1, self.width))
            x_BLD = jnp.concatenate([first_B1D, x_BLD], 1)
        return x_BLD, position_L[None] if positions_BL is None else positions_BL

    def patches_of(self, x_BLD: Float[Array, 'B L D']) -> tuple[Float[Array, 'B N D'], int]:
        return x_BLD[:, int(self.class_token) :], self.size**2 * self.channels

    def _vector(self, name: str, dtype: DTypeLike) -> Float[Array, ' D']:
        normal = nn.initializers.normal(self.init('embed', self.width))
        start = nn.with_logical_partitioning(normal, ('embed',))
        return self.param(name, start, (self.width,)).astype(dtype)

    def _hide(
        self,
        x_BND: Float[Array, 'B N D'],
        hidden_BRC: Bool[Array, 'B R C'] | None,
        shape: tuple[int, ...],
    ) -> Float[Array, 'B N D']:
        """The vectors of images of this shape, of which some are hidden."""
        mask_D = self._vector('mask_token', x_BND.dtype)  # a parameter, whatever is hidden
        if hidden_BRC is None:
            return x_BND
        hidden = spread(hidden_BRC, shape[1] // self.size, shape[2] // self.size)
        return jnp.where(hidden.reshape(*x_BND.shape[:2], 1), mask_D, x_BND)


def spread(
    grid_BRC: Bool[Array, 'B R C'], height: int, width: int
) -> Bool[Array, 'B height width']:
    """Each entry as a rectangle of equal ones, so that all fill a grid of this size."""
    _, rows, columns = grid_BRC.shape
    return grid_BRC.repeat(height // rows, 1).repeat(width // columns, 2)


def flat_patches(
    images: Float[Array, 'B height width channels'], size: int
) -> Float[Array, 'B N pixels']:
    """The patches of each image, row by row, and so are the pixels of each, channels innermost."""
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    grid = images.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
    return grid.reshape(batch, rows * columns, size * size * channels)


def images_of(
    patches_BNP: Float[Array, 'B N pixels'], shape: tuple[int, ...]
) -> Float[Array, 'B height width channels']:
    """The images of this shape of which `flat_patches` makes these, whatever their size."""
    batch, height, width, channels = shape
    size = math.isqrt(patches_BNP.shape[-1] // channels)
    grid = patches_BNP.reshape(batch, height // size, width // size, size, size, channels)
    return grid.swapaxes(2, 3).reshape(shape)


def pixels(images: Array) -> Float[Array, 'B height width channels']:
    """What the model is given of pixels: those of 8 bits from −1 to 1."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1


INPUTS = {'tokens': Tokens, 'patches': Patches}
