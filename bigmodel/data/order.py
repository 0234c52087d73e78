"""The shuffled order: a permutation of the rows for every epoch, computed where it is looked at."""

import functools

import numpy as np
from jaxtyping import Int, UInt

ROUNDS = 8
_BLOCK = 4096


class ShuffledOrder:
    """The row at each place of an endless sequence in which every epoch is a fresh permutation.

    A Feistel network over the next power of two, walked until it lands inside [0, n) (Black and
    Rogaway, 2002), is a permutation that needs no table: a step costs the same for ten rows or ten
    billion, and looking at step 1,000,000 first costs nothing more. (numpy's permutation would need
    the whole epoch at once and may differ between versions of numpy; grain 0.2.18's index shuffle
    takes 9 µs an index from Python and does not return for a set of two rows.)
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed
        self._key = mix(np.array([seed % 2**64], np.uint64))
        self._block = functools.lru_cache(maxsize=4)(self._compute_block)

    def __call__(self, start: int, count: int) -> Int[np.ndarray, 'count']:
        """The rows at places start to start + count of the sequence."""
        places = range(start // _BLOCK, (start + count - 1) // _BLOCK + 1)
        rows = np.concatenate([self._block(i) for i in places])
        return rows[start - places[0] * _BLOCK :][:count]

    def _compute_block(self, index: int) -> Int[np.ndarray, 'block']:
        places = index * _BLOCK + np.arange(_BLOCK)
        epochs, within = np.divmod(places, self.num_rows)
        return permute(within, self.num_rows, mix(self._key ^ epochs.astype(np.uint64)))


def permute(
    values: Int[np.ndarray, 'n'], size: int, keys: UInt[np.ndarray, 'n']
) -> Int[np.ndarray, 'n']:
    """Where the permutation of range(size) that each key (uint64) names sends each value."""
    bits = max(2, (size - 1).bit_length())
    out, outside = values.astype(np.uint64), np.ones(len(values), bool)
    while outside.any():
        out[outside] = _feistel(out[outside], bits, keys[outside])
        outside[outside] = out[outside] >= size
    return out.astype(np.int64)


def _feistel(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of range(2 ** bits): the halves take turns in hashing one onto the other."""
    low, high = bits // 2, bits - bits // 2
    for number in range(ROUNDS):
        left, right = values >> np.uint64(low), values & np.uint64((1 << low) - 1)
        hashed = mix(right ^ mix(keys + np.uint64(number)))
        left = (left ^ hashed) & np.uint64((1 << high) - 1)
        values = right << np.uint64(high) | left
        low, high = high, low
    return values


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    with np.errstate(over='ignore'):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
