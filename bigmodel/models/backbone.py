"""The backbone: embed tokens, run the blocks (scanned, rematerialised), normalise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.dropout import Dropout
from bigmodel.layers.linear import Embed
from bigmodel.layers.losses import LOSSES, REPORTS
from bigmodel.layers.positions import Position
from bigmodel.sharding import constrain

# What the backward pass recomputes instead of keeping.
REMAT: dict[str, Any] = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_saveable,
    'dots_no_batch': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Group(nn.Module):
    """One repetition of the layer pattern: the body of the scan over depth."""

    blocks: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> tuple[Array, None]:
        for i, block in enumerate(self.blocks):
            x_BLD = block(name=f'block_{i}')(x_BLD, context)
            x_BLD = constrain(x_BLD, 'batch', 'length', 'features')
        return x_BLD, None


class Backbone(nn.Module):
    """Token ids to the normalised residual stream.

    `positions` are the encodings by their spec, the model's own first; only that one adds to the
    embeddings. `blocks` is the layer pattern, repeated `repeats` times; parameters are stacked on a
    leading 'layers' dim. `unroll` repetitions are compiled as straight code (same parameters either
    way).
    """

    embed: Callable[..., Embed]
    positions: Mapping[str, Callable[..., Position]]
    blocks: tuple[Callable[..., nn.Module], ...]
    norm: Callable[..., nn.Module]
    repeats: int
    num_heads: int
    scale_embed: bool = False
    dropout: float = 0.0
    remat: str = 'none'
    unroll: int = 1

    def setup(self) -> None:
        self.tokens = self.embed()
        make_own, *make_others = self.positions.values()
        self.position = make_own()
        self.layer_positions = [make() for make in make_others]
        self.past = Past()
        self.embed_dropout = Dropout(self.dropout)
        group = Group
        if self.remat != 'none':
            # Outside of a loop XLA would merge the recomputation with the first computation.
            group = nn.remat(Group, policy=REMAT[self.remat], prevent_cse=self.unroll > 1)
        self.layers = nn.scan(
            group,
            variable_axes={'params': 0, 'cache': 0, LOSSES: 0, REPORTS: 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=nn.broadcast,
            length=self.repeats,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(self.blocks)
        self.final_norm = self.norm()

    def __call__(
        self,
        tokens_BL: Int[Array, 'B L'],
        positions_BL: Int[Array, 'B L'] | None = None,
        segments_BL: Int[Array, 'B L'] | None = None,
        cache_length: int | None = None,
    ) -> Float[Array, 'B L D']:
        """Runs the layers; with a mutable 'cache' collection, on keys of `cache_length` slots."""
        context = self._context(tokens_BL, positions_BL, segments_BL, cache_length)
        x_BLD = self.tokens(tokens_BL)
        if self.scale_embed:
            x_BLD = x_BLD * jnp.sqrt(x_BLD.shape[-1]).astype(x_BLD.dtype)
        x_BLD = self.position.embed(x_BLD, context.queries.position)
        x_BLD = constrain(self.embed_dropout(x_BLD), 'batch', 'length', 'features')
        x_BLD, _ = self.layers(x_BLD, context)
        return self.final_norm(x_BLD)

    def unembed(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """The product with the token table, for a tied head."""
        return self.tokens.attend(x_BLD)

    def _context(
        self,
        tokens_BL: Array,
        positions_BL: Array | None,
        segments_BL: Array | None,
        cache_length: int | None,
    ) -> Context:
        made = (self.position, *self.layer_positions)
        biases = {k: p.bias(self.num_heads) for k, p in zip(self.positions, made, strict=True)}
        if cache_length is None:
            here = Coordinates.of(tokens_BL.shape[1], positions_BL, segments_BL)
            return Context(here, here, biases=biases, aligned=True)
        past = self.past(tokens_BL, positions_BL, segments_BL, cache_length)
        return Context(*past, biases=biases)


class Past(nn.Module):
    """The coordinates of the tokens in the cache, which the next tokens follow."""

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, 'B L'],
        positions_BL: Int[Array, 'B L'] | None,
        segments_BL: Int[Array, 'B L'] | None,
        cache_length: int,
    ) -> tuple[Coordinates, Coordinates]:
        """The coordinates of these tokens and of all slots of the cache, which it updates."""
        shape = (tokens_BL.shape[0], cache_length)
        start = self.variable('cache', 'length', jnp.zeros, (), jnp.int32)
        position = self.variable('cache', 'position', jnp.zeros, shape, jnp.int32)
        segment = self.variable('cache', 'segment', jnp.zeros, shape, jnp.int32)
        here = Coordinates.of(tokens_BL.shape[1], positions_BL, segments_BL, start.value)
        here = here.replace(
            position=jnp.broadcast_to(here.position, tokens_BL.shape),
            segment=jnp.ones_like(tokens_BL) if segments_BL is None else segments_BL,
        )
        at = (0, start.value)
        position.value = jax.lax.dynamic_update_slice(position.value, here.position, at)
        segment.value = jax.lax.dynamic_update_slice(segment.value, here.segment, at)
        start.value += tokens_BL.shape[1]
        return here, Coordinates.of(cache_length, position.value, segment.value)
