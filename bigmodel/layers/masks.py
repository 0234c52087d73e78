"""Masks: frozen, parameter-free, composable functions of query and key coordinates.

True means that the query may look at the key. A mask is materialised only where a kernel needs it;
`flags` reads it as what a fused kernel understands instead.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Bool

from bigmodel.layers.coordinates import Coordinates
from bigmodel.specs import NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class Mask:
    """Base of all masks; `&` and `|` compose."""

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        """Which query–key pairs may attend; B may be 1."""
        raise NotImplementedError

    @property
    def causal(self) -> bool:
        """Whether no query can look at a later slot."""
        return False

    @property
    def of_batch(self) -> bool:
        """Whether what it shows of later slots is what the batch marks as a prefix."""
        return False

    def __and__(self, other: 'Mask') -> 'Mask':
        return And(self, other)

    def __or__(self, other: 'Mask') -> 'Mask':
        return Or(self, other)


@dataclasses.dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key: an encoder."""

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        return jnp.ones((1, len(queries.index), len(keys.index)), bool)


@dataclasses.dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and the past: a decoder."""

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        return (queries.distance(keys) >= 0)[None]

    @property
    def causal(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Window(Mask):
    """A query sees the last `size` keys, itself included (Beltagy et al. 2020, causal form)."""

    size: Annotated[int, POSITIVE]

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        distance = queries.distance(keys)
        return ((distance >= 0) & (distance < self.size))[None]

    @property
    def causal(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Chunked(Mask):
    """A query sees the past of its own chunk of `size` tokens of the document (Llama 4, 2025)."""

    size: Annotated[int, POSITIVE]

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        here, there = queries.position // self.size, keys.position // self.size
        return (here[:, :, None] == there[:, None, :]) & (queries.distance(keys) >= 0)

    @property
    def causal(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Prefix(Mask):
    """A query sees the past and the first `length` tokens of the document (Raffel et al. 2019);
    0: those that the task marks as the prefix.
    """

    length: Annotated[int, NOT_NEGATIVE] = 0

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        past = (queries.distance(keys) >= 0)[None]
        if self.length:
            return past | (keys.position < self.length)[:, None, :]
        return past if keys.prefix is None else past | keys.prefix[:, None, :]

    @property
    def causal(self) -> bool:
        return self.length == 1  # the first token is everyone's past

    @property
    def of_batch(self) -> bool:
        return self.length == 0


@dataclasses.dataclass(frozen=True)
class SameSegment(Mask):
    """A query sees the keys of its own document; everything when rows hold one document."""

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        # Rows of one document have no segments, or are all segment 1.
        here_BL, there_BS = (
            jnp.ones((1, len(x.index)), jnp.int32) if x.segment is None else x.segment
            for x in (queries, keys)
        )
        return here_BL[:, :, None] == there_BS[:, None, :]


@dataclasses.dataclass(frozen=True)
class And(Mask):
    """Both masks allow it."""

    a: Mask
    b: Mask

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        return self.a(queries, keys) & self.b(queries, keys)

    @property
    def causal(self) -> bool:
        return self.a.causal or self.b.causal


@dataclasses.dataclass(frozen=True)
class Or(Mask):
    """Either mask allows it."""

    a: Mask
    b: Mask

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Bool[Array, 'B L S']:
        return self.a(queries, keys) | self.b(queries, keys)

    @property
    def causal(self) -> bool:
        return self.a.causal and self.b.causal


MASKS = {
    'full': Full,
    'causal': Causal,
    'window': Window,
    'chunked': Chunked,
    'prefix': Prefix,
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A mask as a fused kernel takes it: causal or not, an optional window, documents or not."""

    causal: bool = False
    window: int | None = None
    segments: bool = False


def flags(mask: Mask) -> Flags | None:
    """The flags that say the same as `mask`, or None when no flags do."""
    match mask:
        case Full():
            return Flags()
        case Causal():
            return Flags(causal=True)
        case Window(size):
            return Flags(causal=True, window=size)
        case SameSegment():
            return Flags(segments=True)
        case And(a, b):
            one, two = flags(a), flags(b)
            if one is None or two is None:
                return None
            sizes = [w for w in (one.window, two.window) if w is not None]
            window = min(sizes) if sizes else None
            return Flags(one.causal or two.causal, window, one.segments or two.segments)
    return None
