"""Prompts: vectors that are learned, which come before the tokens of every row."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from bigmodel.layers.initializers import Init, fan_in
from bigmodel.specs import POSITIVE

Row = tuple[
    Float[Array, 'B N D'],
    Int[Array, 'Q N'] | None,
    Int[Array, 'B N'] | None,
    Bool[Array, 'B N'] | None,
]


class NoPrompt(nn.Module):
    """The row is as it is."""

    length = 0

    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        positions: Int[Array, 'P L'] | None,
        segments: Int[Array, 'B L'] | None,
        prefix: Bool[Array, 'B L'] | None = None,
    ) -> Row:
        """What the backbone reads: vectors, their positions, segments and prefix."""
        return x_BLD, positions, segments, prefix


class Soft(NoPrompt):
    """`length` vectors before the row, of which the head sees nothing (Lester et al. 2021; with
    patches the shallow prompt of Jia et al. 2022).

    They belong to the row's document, and to its prefix, and all have position 0, so that its
    tokens keep the positions that the model knows; masks and relative biases, which count slots,
    see them before the row. Of an encoder–decoder it is the decoder's row. Tokens that are decoded
    follow a prompt that is read once.
    """

    width: int
    length: Annotated[int, POSITIVE] = 20
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        positions: Int[Array, 'P L'] | None,
        segments: Int[Array, 'B L'] | None,
        prefix: Bool[Array, 'B L'] | None = None,
    ) -> Row:
        normal = nn.initializers.normal(self.init('embed', self.width))
        start = nn.with_logical_partitioning(normal, ('positions', 'embed'))
        table_PD = self.param('table', start, (self.length, self.width)).astype(x_BLD.dtype)
        B, L, _ = x_BLD.shape
        read, begins = self._count(L)
        if positions is None:
            positions = read + jnp.arange(L, dtype=jnp.int32)[None]
        if not begins:
            return x_BLD, positions, segments, prefix
        prompt_BPD = jnp.broadcast_to(table_PD, (B, *table_PD.shape))
        zeros = jnp.zeros((len(positions), self.length), positions.dtype)
        if segments is not None:  # padding, which is 0, may come first
            own = jnp.broadcast_to(segments.max(1, keepdims=True), (B, self.length))
            segments = jnp.concatenate([own, segments], 1)
        if prefix is not None:
            prefix = jnp.concatenate([jnp.ones((B, self.length), bool), prefix], 1)
        row = jnp.concatenate([prompt_BPD, x_BLD], 1)
        return row, jnp.concatenate([zeros, positions], 1), segments, prefix

    def _count(self, length: int) -> tuple[jax.Array | int, bool]:
        """How many tokens were decoded before these, and whether these are the first."""
        if not self.is_mutable_collection('cache'):
            return 0, True
        begins = not self.has_variable('cache', 'length')
        count = self.variable('cache', 'length', jnp.zeros, (), jnp.int32)
        before, count.value = count.value, count.value + length
        return before, begins


PROMPTS = {'none': NoPrompt, 'soft': Soft}
