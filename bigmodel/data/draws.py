"""Random numbers for the rows of a batch, whatever else was drawn."""

import numpy as np
from jaxtyping import Float, Int, UInt

from bigmodel.data.order import mix


class Draws:
    """Random numbers for n rows: each call draws anew, and a row's depend on its key alone.

    SplitMix64 as a function of (key, number of the call, place), so that there is no generator
    whose stream another version of numpy might change.
    """

    def __init__(self, keys: UInt[np.ndarray, 'n']) -> None:
        self.num_rows = len(keys)
        self._keys, self._calls = keys, 0

    def bits(self, count: int) -> UInt[np.ndarray, 'n count']:
        """64 random bits, `count` times for each row."""
        self._calls += 1
        keys = mix(self._keys ^ mix(np.array([self._calls], np.uint64)))
        return mix(keys[:, None] ^ np.arange(count, dtype=np.uint64))

    def below(self, high: int, count: int) -> Int[np.ndarray, 'n count']:
        """Integers in [0, high)."""
        return (self.bits(count) % np.uint64(high)).astype(np.int64)

    def unit(self, count: int) -> Float[np.ndarray, 'n count']:
        """Floats in [0, 1)."""
        return (self.bits(count) >> np.uint64(11)) * 2.0**-53

    def distinct(self, high: int, count: int) -> Int[np.ndarray, 'n count']:
        """Different integers in [0, high), in random order."""
        return np.argsort(self.bits(high), axis=1, kind='stable')[:, :count]
