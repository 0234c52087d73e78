"""Characters in rows of tokens that are bytes of UTF-8, cut anywhere."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

# What `characters` says where no character begins: inside of one, at a byte that is part of none,
# and at an id that stands for no bytes.
INSIDE, STRAY, NO_BYTES = -1, -2, -3
# By the first byte of a character: its length, and the bits of that byte that are of its number.
LENGTHS = np.repeat([1, 0, 2, 3, 4, 0], [128, 66, 30, 16, 5, 11])
BITS = {1: 0x7F, 2: 0x1F, 3: 0x0F, 4: 0x07}
LAST = 0x10FFFF


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The bytes of each id, one after the other: those of id i from offsets[i] to offsets[i+1]."""

    flat: Int[np.ndarray, ' N']
    offsets: Int[np.ndarray, ' offsets']

    @classmethod
    def of(cls, pieces: Mapping[int, bytes], size: int) -> 'Pieces':
        """Of ids below `size`; those that are missing stand for no bytes."""
        each = [pieces.get(i, b'') for i in range(size)]
        offsets = np.cumsum([0, *map(len, each)])
        return cls(np.frombuffer(b''.join(each), np.uint8).astype(np.int64), offsets)

    def stream(
        self, ids: Int[np.ndarray, 'n L']
    ) -> tuple[Int[np.ndarray, ' S'], Int[np.ndarray, 'n L']]:
        """The bytes of all rows, NO_BYTES before each row and for an id without any, and where in
        them each id begins.
        """
        known = ids < len(self.offsets) - 1
        safe = np.where(known, ids, 0)
        counts = np.where(known, self.offsets[safe + 1] - self.offsets[safe], 0)
        sizes = np.pad(np.maximum(counts, 1), ((0, 0), (1, 0)), constant_values=1).ravel()
        places = np.cumsum(sizes) - sizes
        firsts = np.pad(np.where(counts > 0, self.offsets[safe], -1), ((0, 0), (1, 0)))
        firsts[:, 0] = -1
        begins = np.repeat(firsts.ravel(), sizes)
        index = begins + np.arange(sizes.sum()) - np.repeat(places, sizes)
        flat = np.append(self.flat, 0)  # an index that is not read may be beyond
        stream = np.where(begins >= 0, flat[np.clip(index, 0, len(self.flat))], NO_BYTES)
        return stream, places.reshape(len(ids), -1)[:, 1:]


def characters(stream: Int[np.ndarray, ' S']) -> Int[np.ndarray, ' S']:
    """The number of the character that begins at each place, or why none does."""
    ahead = np.pad(stream, (0, 3), constant_values=NO_BYTES)
    lengths = np.where(stream >= 0, LENGTHS[stream], 0)
    found = np.where(stream >= 0, STRAY, NO_BYTES)
    for length, bits in BITS.items():
        begin = np.flatnonzero(lengths == length)
        code = ahead[begin] & bits
        right = np.ones(len(begin), bool)
        for k in range(1, length):
            byte = ahead[begin + k]
            right &= (byte >= 0x80) & (byte < 0xC0)
            code = code << 6 | byte & 0x3F
        right &= code <= LAST
        found[begin[right]] = code[right]
        for k in range(1, length):
            found[begin[right] + k] = INSIDE
    return found
