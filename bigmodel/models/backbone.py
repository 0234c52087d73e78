"""The backbone: add positions, run the blocks (scanned, rematerialised), normalise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bigmodel.layers.coordinates import Context, Coordinates, Memory
from bigmodel.layers.dropout import Dropout
from bigmodel.layers.losses import LOSSES, REPORTS
from bigmodel.layers.names import named
from bigmodel.layers.positions import Position
from bigmodel.models.pipeline import by_rows, pipelined
from bigmodel.models.remat import policy_of
from bigmodel.sharding import constrain
from bigmodel.stages import Stages, stages

# Which repetitions of the pattern have parameters of their own.
_OWN = {'cache': 0, LOSSES: 0, REPORTS: 0}
SHARE: dict[str, dict[str, Any]] = {
    'none': {
        'variable_axes': {'params': 0, **_OWN},
        'split_rngs': {'params': True, 'dropout': True},
    },
    # Lan et al. 2019 (ALBERT); with a pattern, the cycle of Takase & Kiyono 2021.
    'all': {
        'variable_axes': _OWN,
        'variable_broadcast': 'params',
        'split_rngs': {'params': False, 'dropout': True},
    },
}

# The residual stream, and what layers hand to later ones beside it.
Carry = tuple[Float[Array, 'B L D'], dict[str, Array]]


class Group(nn.Module):
    """One repetition of the layer pattern: the body of the scan over depth."""

    blocks: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, carry: Carry, context: Context) -> tuple[Carry, None]:
        x_BLD, carried = carry
        context = context.replace(carried=dict(carried))
        for i, block in enumerate(self.blocks):
            x_BLD = named('block_input', x_BLD)
            x_BLD = block(name=f'block_{i}')(x_BLD, context)
            x_BLD = constrain(x_BLD, 'batch', 'length', 'features')
        return (x_BLD, context.carried), None


class Backbone(nn.Module):
    """Embedded inputs to the normalised residual stream.

    `positions` are the encodings by their spec, the model's own first; only that one adds to the
    embeddings. `blocks` is the layer pattern, repeated `repeats` times; parameters are stacked on a
    leading 'layers' dim, or with `share` are the same for all repetitions. `unroll` repetitions are
    compiled as straight code (same parameters either way). `carries` is what layers hand to later
    ones, name -> shape for each token.
    """

    positions: Mapping[str, Callable[..., Position]]
    blocks: tuple[Callable[..., nn.Module], ...]
    make_embed_norm: Callable[..., nn.Module]
    make_final_norm: Callable[..., nn.Module]
    repeats: int
    num_heads: int
    carries: Mapping[str, tuple[int, ...]]
    share: str = 'none'
    dropout: float = 0.0
    remat: str = 'none'
    unroll: int = 1

    def setup(self) -> None:
        make_own, *make_others = self.positions.values()
        self.position = make_own()
        self.layer_positions = [make() for make in make_others]
        self.past = Past()
        self.embed_norm = self.make_embed_norm()
        self.embed_dropout = Dropout(self.dropout)
        self.layers = nn.scan(
            self._group(),
            **SHARE[self.share],
            in_axes=nn.broadcast,
            length=self.repeats,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(self.blocks)
        self.final_norm = self.make_final_norm()

    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        context: Context,
    ) -> Float[Array, 'B L D']:
        """Runs the layers."""
        x_BLD = self.embed_norm(self.position.embed(x_BLD, context.queries.position))
        x_BLD = constrain(self.embed_dropout(x_BLD), 'batch', 'length', 'features')
        B, L, _ = x_BLD.shape
        carried = {k: jnp.zeros((B, L, *shape), x_BLD.dtype) for k, shape in self.carries.items()}
        # Of shared parameters all stages have all.
        pipeline = stages(B, self.repeats) if self.share == 'none' else None
        if pipeline and not self.is_initializing():
            x_BLD = self._through(pipeline, x_BLD, carried, context)
        else:
            (x_BLD, _), _ = self.layers((x_BLD, carried), context)
        return self.final_norm(x_BLD)

    def _group(self) -> type[nn.Module]:
        policy = policy_of(self.remat)
        if policy is None:
            return Group
        # Outside of a loop XLA would merge the recomputation with the first computation.
        return nn.remat(Group, policy=policy, prevent_cse=self.unroll > 1)

    def _through(
        self, pipeline: Stages, x_BLD: Array, carried: dict[str, Array], context: Context
    ) -> Array:
        """The layers as stages; each draws dropout anew for a microbatch's rows of a device."""
        group = self._group()(self.blocks, parent=None)
        sown = [name for name in (LOSSES, REPORTS) if self.is_mutable_collection(name)]
        key = self.make_rng('dropout') if self.has_rng('dropout') else None
        numbers, memory, remade = by_rows(context, len(x_BLD))

        def layer(
            weights: Any, carry: Any, numbers: Any, number: Array, rows: Array
        ) -> tuple[Any, Any]:
            x_BLD, (carried, memory) = carry
            rngs = {}
            if key is not None:
                own = jax.random.fold_in(jax.random.fold_in(key, number), rows)
                rngs = {'dropout': own}
            (carry, _), found = group.apply(
                {'params': weights},
                (x_BLD, carried),
                remade(numbers, memory),
                rngs=rngs,
                mutable=sown,
            )
            return (carry[0], (carry[1], memory)), found

        weights = self.get_variable('params', 'layers')
        along, how = (carried, memory), (self.unroll, policy_of(self.remat))
        x_BLD, found = pipelined(pipeline, layer, weights, x_BLD, along, numbers, *how)
        for name, values in found.items():
            self.put_variable(name, 'layers', values)
        return x_BLD

    def context(
        self,
        shape: tuple[int, int],
        positions_BL: Int[Array, 'P L'] | None = None,
        segments_BL: Int[Array, 'B L'] | None = None,
        cache_length: int | None = None,
        memory: Memory | None = None,
        prefix_BL: Bool[Array, 'B L'] | None = None,
    ) -> Context:
        """Where (B, L) tokens are; with a mutable 'cache', among keys of `cache_length` slots."""
        made = (self.position, *self.layer_positions)
        biases = {k: p.bias(self.num_heads) for k, p in zip(self.positions, made, strict=True)}
        if cache_length is None:
            here = Coordinates.of(shape[1], positions_BL, segments_BL, prefix=prefix_BL)
            return Context(here, here, biases=biases, aligned=True, memory=memory)
        past = self.past(shape, positions_BL, segments_BL, cache_length, prefix_BL)
        return Context(*past, biases=biases, memory=memory)


class Past(nn.Module):
    """The coordinates of the tokens in the cache, which the next tokens follow."""

    @nn.compact
    def __call__(
        self,
        here_shape: tuple[int, int],
        positions_BL: Int[Array, 'P L'] | None,
        segments_BL: Int[Array, 'B L'] | None,
        cache_length: int,
        prefix_BL: Bool[Array, 'B L'] | None = None,
    ) -> tuple[Coordinates, Coordinates]:
        """The coordinates of these tokens and of all slots of the cache, which it updates."""
        shape = (here_shape[0], cache_length)
        start = self.variable('cache', 'length', jnp.zeros, (), jnp.int32)
        position = self.variable('cache', 'position', jnp.zeros, shape, jnp.int32)
        segment = self.variable('cache', 'segment', jnp.zeros, shape, jnp.int32)
        prefix = self.variable('cache', 'prefix', jnp.zeros, shape, bool)
        here = Coordinates.of(here_shape[1], positions_BL, segments_BL, start.value)
        here = here.replace(
            position=jnp.broadcast_to(here.position, here_shape),
            segment=jnp.ones(here_shape, jnp.int32) if segments_BL is None else segments_BL,
            prefix=jnp.zeros(here_shape, bool) if prefix_BL is None else prefix_BL,
        )
        at = (0, start.value)
        position.value = jax.lax.dynamic_update_slice(position.value, here.position, at)
        segment.value = jax.lax.dynamic_update_slice(segment.value, here.segment, at)
        prefix.value = jax.lax.dynamic_update_slice(prefix.value, here.prefix, at)
        start.value += here_shape[1]
        slots = Coordinates.of(cache_length, position.value, segment.value, prefix=prefix.value)
        return here, slots
