"""Where tokens are: what masks, biases and kernels know about queries and keys."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@flax.struct.dataclass
class Coordinates:
    """The places of L tokens in B rows.

    `index` counts slots of the row (or of the cache), `position` counts tokens of the document,
    `segment` numbers the documents packed into a row (0 is padding; None: one document a row).
    `prefix` says which tokens all of their document may see, also those before (None: none).
    Within a document, differences of index and of position are the same, so masks and relative
    biases use `index`, which has no batch dim and therefore costs L·S, not B·L·S.
    """

    index: Int[Array, ' L']
    position: Int[Array, 'P L']  # P is B or 1
    segment: Int[Array, 'B L'] | None = None
    prefix: Bool[Array, 'B L'] | None = None

    @classmethod
    def of(
        cls,
        length: int,
        position: Int[Array, 'P L'] | None = None,
        segment: Int[Array, 'B L'] | None = None,
        start: Int[Array, ''] | int = 0,
        prefix: Bool[Array, 'B L'] | None = None,
    ) -> 'Coordinates':
        """Slots start, start+1, …; positions default to the slots."""
        index = start + jnp.arange(length, dtype=jnp.int32)
        return cls(index, index[None] if position is None else position, segment, prefix)

    def distance(self, keys: 'Coordinates') -> Int[Array, 'L S']:
        """Query slot minus key slot: 0 for the token itself, positive for the past."""
        return self.index[:, None] - keys.index[None, :]


@flax.struct.dataclass
class Memory:
    """What an encoder made of its source: S vectors in B rows, and where they are."""

    x_BSD: Float[Array, 'B S D']
    keys: Coordinates


@flax.struct.dataclass
class Context:
    """What the backbone hands to every block beside the residual stream.

    `biases` holds the attention bias of every position encoding of the model, by its spec; each
    attention layer hands its kernel the one of its own as `bias`. `aligned` says that the keys are
    the queries' own tokens. It is static: whether two fields are one object is forgotten wherever a
    transformation takes the context apart. `memory` is what cross-attention reads. Layers write to
    `carried` what later ones read (`Mixer.carries`); at first it holds zeros.
    """

    queries: Coordinates
    keys: Coordinates
    bias: 'Bias | None' = None
    aligned: bool = flax.struct.field(pytree_node=False, default=False)
    biases: 'dict[str, Bias | None]' = flax.struct.field(default_factory=dict)
    memory: Memory | None = None
    carried: dict[str, Array] = flax.struct.field(default_factory=dict)

    def starts(self) -> Bool[Array, 'B L']:
        """Which queries are the first token of their document, where a recurrence begins anew.

        B is 1 when rows hold one document.
        """
        here, index = self.queries.segment, self.queries.index
        if here is None or self.keys.segment is None:
            return (index == 0)[None]
        before = jnp.take(self.keys.segment, jnp.maximum(index - 1, 0), axis=1)
        return (here != before) | (index == 0)


class Bias:
    """An additive attention bias that is evaluated where a kernel needs it."""

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[jax.Array, 'B H L S']:
        """The bias of each query–key pair, float32; B may be 1."""
        raise NotImplementedError
