"""Synthetic probes of what a mixer can do, as entries of the slot `data.source`.

Where a probe has noise, id 0 is the noise and id 1 the marker; `data.seq_len` is the length of the
row, and so the distance over which something must be remembered.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data.draws import Draws
from bigmodel.data.probe import Answers, Probe, Tokens
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE

Count = Annotated[int, POSITIVE]
MARKER = 1


class Marked(Probe):
    """Base of probes over noise, a marker and `symbols` other ids."""

    symbols: int

    @property
    def num_symbols(self) -> int:
        return 2 + self.symbols


@dataclasses.dataclass(frozen=True)
class Copying(Marked):
    """`count` random symbols, a marker, the same symbols again (Graves et al. 2014, §4.1).

    `count` 0 fills the row.
    """

    count: Annotated[int, NOT_NEGATIVE] = 0
    symbols: Count = 16

    @property
    def least(self) -> int:
        return 2 * max(self.count, 1) + 1

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        given = 2 + draws.below(self.symbols, self.count or (length - 1) // 2)
        return _marked(given, self.answer(given))

    def answer(self, given: Int[np.ndarray, 'n m']) -> Int[np.ndarray, 'n m']:
        """What follows the marker."""
        return given


class Sorting(Copying):
    """`count` random symbols, a marker, the same symbols in ascending order.

    `count` 0 fills the row. Every answer depends on all symbols (Vinyals et al. 2016).
    """

    def answer(self, given: Int[np.ndarray, 'n m']) -> Int[np.ndarray, 'n m']:
        return np.sort(given, axis=1)


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Marked):
    """`count` symbols at random places in noise, a marker, the symbols in order (Gu & Dao 2023)."""

    count: Count = 8
    symbols: Count = 16

    @property
    def least(self) -> int:
        return 2 * self.count + 1

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        room = length - self.count - 1
        content = 2 + draws.below(self.symbols, self.count)
        places = np.sort(draws.distinct(room, self.count), axis=1)
        given = np.zeros((draws.num_rows, room), np.int64)
        np.put_along_axis(given, places, content, axis=1)
        return _marked(given, content)


@dataclasses.dataclass(frozen=True)
class Induction(Marked):
    """Random symbols with a marker among them; after the marker's return, what followed it first.

    Fu et al. 2023, after the induction heads of Olsson et al. 2022; `repeats` markers return,
    the last at the end of the row.
    """

    symbols: Count = 16
    repeats: Count = 1

    @property
    def least(self) -> int:
        return 2 * (1 + self.repeats)

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        tokens = 2 + draws.below(self.symbols, length)
        answer = 2 + draws.below(self.symbols, 1)
        # Pairs of a marker and a symbol start at `places`; squeezing every pair into one slot
        # makes all their arrangements equally likely. The last pair ends the row.
        slots = length - 2 - self.repeats
        places = np.sort(draws.distinct(slots, self.repeats), axis=1) + np.arange(self.repeats)
        places = np.concatenate([places, np.full_like(places[:, :1], length - 2)], axis=1)
        np.put_along_axis(tokens, places, MARKER, axis=1)
        np.put_along_axis(tokens, places + 1, answer, axis=1)
        answers = np.zeros(tokens.shape, bool)
        np.put_along_axis(answers, places[:, 1:] + 1, True, axis=1)
        return tokens, answers


@dataclasses.dataclass(frozen=True)
class MQAR(Probe):
    """Multi-query associative recall: key–value pairs, then every key again, for its value.

    Arora et al. 2023, with queries spread evenly at random over the rest of the row. Each of
    `pairs` keys is one of `keys`, all different, and each value one of `values`.
    """

    pairs: Count = 8
    keys: Count = 32
    values: Count = 32

    def __post_init__(self) -> None:
        if self.pairs > self.keys:
            raise ValueError(f'pairs={self.pairs} need as many different keys, not {self.keys}')

    @property
    def num_symbols(self) -> int:
        return 1 + self.keys + self.values

    @property
    def least(self) -> int:
        return 4 * self.pairs

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        keys = 1 + draws.distinct(self.keys, self.pairs)
        values = 1 + self.keys + draws.below(self.values, self.pairs)
        pairs = np.stack([keys, values], axis=-1)
        # The rest of the row in slots of two tokens: a query with its answer, or noise.
        places = draws.distinct(length // 2 - self.pairs, self.pairs)
        rest = np.zeros((draws.num_rows, length // 2 - self.pairs, 2), np.int64)
        np.put_along_axis(rest, places[..., None], pairs, axis=1)
        slots = np.concatenate([pairs, rest], axis=1)
        answers = np.zeros(slots.shape, bool)
        answers[:, self.pairs :, 1] = rest[..., 1] > 0
        return slots.reshape(draws.num_rows, -1), answers.reshape(draws.num_rows, -1)


@dataclasses.dataclass(frozen=True)
class Modular(Probe):
    """Sums of `terms` digits modulo `modulus`, `equations` to a row (Power et al. 2022).

    `a b = c`, where id `modulus` is the equals sign; `equations` 0 fills the row. Equations of few
    terms come back in every split: many terms ask for more than memory.
    """

    modulus: Count = 5
    terms: Count = 3
    equations: Annotated[int, NOT_NEGATIVE] = 0

    @property
    def num_symbols(self) -> int:
        return self.modulus + 1

    @property
    def least(self) -> int:
        return max(self.equations, 1) * (self.terms + 2)

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        count = self.equations or length // (self.terms + 2)
        digits = draws.below(self.modulus, count * self.terms)
        digits = digits.reshape(draws.num_rows, count, self.terms)
        equals = np.full_like(digits[..., :1], self.modulus)
        total = digits.sum(-1, keepdims=True) % self.modulus
        tokens = np.concatenate([digits, equals, total], axis=-1)
        answers = np.zeros(tokens.shape, bool)
        answers[..., -1] = True
        return tokens.reshape(draws.num_rows, -1), answers.reshape(draws.num_rows, -1)


@dataclasses.dataclass(frozen=True)
class Needle(Marked):
    """A marker and `size` symbols hidden at some depth of a row, asked for at its end.

    Mohtashami & Jaggi 2023 (passkey retrieval). The depth, a share of the places where the
    needle can be, is drawn between `shallowest` and `deepest`: 0 is the row's start, as far from
    the question as can be.
    """

    size: Count = 4
    symbols: Count = 16
    shallowest: Annotated[float, SHARE] = 0.0
    deepest: Annotated[float, NOT_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        if not self.shallowest <= self.deepest <= 1:
            raise ValueError(
                f'shallowest={self.shallowest} and deepest={self.deepest} are shares of the row, '
                f'the first at most the second'
            )

    @property
    def least(self) -> int:
        return 2 * (self.size + 1)

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        hay = length - self.size - 1
        tokens = 2 + draws.below(self.symbols, hay)
        needle = 2 + draws.below(self.symbols, self.size)
        needle = np.concatenate([np.full_like(needle[:, :1], MARKER), needle], axis=1)
        starts = hay - self.size  # how many places there are
        depth = self.shallowest + (self.deepest - self.shallowest) * draws.unit(1)
        place = np.minimum((depth * starts).astype(np.int64), starts - 1)
        np.put_along_axis(tokens, place + np.arange(self.size + 1), needle, axis=1)
        return _marked(tokens, needle[:, 1:])


PROBES: dict[str, Callable[..., Probe]] = {
    'copying': Copying,
    'sorting': Sorting,
    'selective_copying': SelectiveCopying,
    'induction': Induction,
    'mqar': MQAR,
    'modular': Modular,
    'needle': Needle,
}


def _marked(
    given: Int[np.ndarray, 'n m'], answer: Int[np.ndarray, 'n k']
) -> tuple[Int[np.ndarray, 'n L'], Bool[np.ndarray, 'n L']]:
    """What is given, a marker, and the answer."""
    tokens = np.concatenate([given, np.full_like(given[:, :1], MARKER), answer], axis=1)
    answers = np.zeros(tokens.shape, bool)
    answers[:, given.shape[1] + 1 :] = True
    return tokens, answers
