"""Mixtures of sources by weight: the key `data.mixture`, and the turns that sources take."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from bigmodel import config as config_lib
from bigmodel.data.order import ShuffledOrder
from bigmodel.errors import UserError, nearest

OWN = ('source', 'path', 'format', 'packing')  # the keys of `data` that a part may change
USAGE = 'name: weight key=value ...'
MOST_PLACES = 10_000  # of a period


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture."""

    weight: Fraction
    config: ConfigDict  # `config.data` as it is for this source alone


def parts_of(data_config: ConfigDict) -> dict[str, Part]:
    """The parts of `data_config.mixture` by name, weights adding up to 1; {} without a mixture.

    Raises UserError for an entry that cannot be read.
    """
    parts = {}
    for text in map(str, data_config.mixture):
        name, words, changes = config_lib.read_entry('data.mixture', text, USAGE)
        if name in parts:
            raise UserError(f'data.mixture: two sources are called {name!r}; rename one')
        parts[name] = Part(_weight(text, words), _changed(data_config, name, changes))
    total = sum(part.weight for part in parts.values())
    return {k: dataclasses.replace(p, weight=p.weight / total) for k, p in parts.items()}


def configs_of(data_config: ConfigDict) -> dict[str, ConfigDict]:
    """What `config.data` is for each source, by name; that of a run without a mixture is ''."""
    parts = parts_of(data_config)
    return {name: part.config for name, part in parts.items()} or {'': data_config}


class Turns:
    """Which source has each place of an endless sequence, and which of its rows comes there.

    Places come in periods, in which each source has its share, as evenly spread as can be: of n
    turns in a period of P places the j-th would best be at P·(j + ½)/n. Shares are exact where the
    weights are fractions of at most `MOST_PLACES`; else a period has that many places, shared out
    by largest remainder.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        self.counts = np.array(share_out(weights), np.int64)
        source = np.repeat(np.arange(len(self.counts)), self.counts)
        number = np.concatenate([np.arange(n) for n in self.counts])
        # Equal fractions are equal floats, and others of so few places are further apart.
        order = np.lexsort((number, source, (2 * number + 1) / self.counts[source]))
        self._source, self._number = source[order], number[order]

    @property
    def period(self) -> int:
        """The places after which the sources come in the same order again."""
        return len(self._source)

    def __call__(
        self, places: Int[np.ndarray, 'n']
    ) -> tuple[Int[np.ndarray, 'n'], Int[np.ndarray, 'n']]:
        """The number of the source at each place, and how many of its rows came before."""
        periods, within = np.divmod(places, self.period)
        source = self._source[within]
        return source, periods * self.counts[source] + self._number[within]

    def most_of(self, batch_size: int) -> list[int]:
        """The rows that a batch has of each source, rounded up."""
        return [-(-batch_size * n // self.period) for n in self.counts.tolist()]


def share_out(weights: Sequence[Fraction]) -> list[int]:
    """The turns of each source in a period; `weights` add up to 1."""
    places = min(math.lcm(*(w.denominator for w in weights)), MOST_PLACES)
    counts = [math.floor(w * places) for w in weights]
    by_remainder = sorted(range(len(weights)), key=lambda k: counts[k] - weights[k] * places)
    for k in by_remainder[: places - sum(counts)]:
        counts[k] += 1
    return counts


class MixedOrder:
    """The row at each place of an endless sequence; rows of all sources are numbered in one go.

    The rows of each source come in epochs of their own, shuffled by a seed of its own.
    """

    def __init__(self, turns: Turns, sizes: Sequence[int], seed: int) -> None:
        self._turns, self._first = turns, np.cumsum([0, *sizes])
        # The first source has the order that it would have alone; seeds of runs are below 2**32.
        self._orders = [ShuffledOrder(n, seed + (k << 32)) for k, n in enumerate(sizes)]

    def __call__(self, start: int, count: int) -> Int[np.ndarray, 'count']:
        """The rows at places start to start + count of the sequence."""
        source, number = self._turns(np.arange(start, start + count))
        rows = np.empty(count, np.int64)
        for k in np.unique(source).tolist():
            here = source == k
            rows[here] = self._first[k] + self._orders[k](int(number[here][0]), int(here.sum()))
        return rows


# (number of rows, seed) -> (start, count) -> rows
MakeOrder = Callable[[int, int], Callable[[int, int], Int[np.ndarray, 'count']]]


def _weight(text: str, words: list[str]) -> Fraction:
    try:
        (word,) = words
        weight = Fraction(word)
    except (ValueError, ZeroDivisionError):
        raise UserError(f'data.mixture: cannot read {text!r}; write {USAGE!r}') from None
    if weight <= 0:
        raise UserError(
            f'data.mixture: {text!r}: the weight must be positive; leave the source out'
        )
    return weight


def _changed(data_config: ConfigDict, name: str, changes: dict[str, str]) -> ConfigDict:
    config = data_config.copy_and_resolve_references()
    config.mixture = ()
    for key, value in changes.items():
        if key not in OWN:
            raise UserError(
                f'data.mixture: {name}: {key!r} is not one of {", ".join(OWN)}.{nearest(key, OWN)} '
                f'Other keys of data are the same for all sources'
            )
        config_lib.override(config, key, value)
    return config
