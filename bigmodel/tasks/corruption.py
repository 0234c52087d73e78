"""Corruption of text by spans, in numpy: which tokens are cut out, and what is left of a row."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bigmodel.data.draws import Draws

Tokens = Int[np.ndarray, 'n L']
Counts = Int[np.ndarray, 'n']


@dataclasses.dataclass(frozen=True)
class Spans:
    """How much is cut out: the share `rate` of a row's tokens, in spans of `mean_length`.

    Both may differ from row to row; infinite spans are one.
    """

    rate: float | Float[np.ndarray, 'n']
    mean_length: float | Float[np.ndarray, 'n']

    def counts(self, lengths: Counts) -> tuple[Counts, Counts]:
        """Tokens that are cut out of rows of these lengths, and in how many spans.

        At least one of each and never all; a row of fewer than two tokens stays whole. Both grow
        with the length, and so does what they leave.
        """
        lengths = np.asarray(lengths, np.int64)
        noise = np.clip(np.rint(lengths * self.rate).astype(np.int64), 1, lengths - 1)
        noise = np.where(lengths < 2, 0, noise)
        spans = np.maximum(np.rint(noise / self.mean_length).astype(np.int64), 1)
        return noise, np.minimum(spans, np.minimum(noise, lengths - noise))

    def draw(self, lengths: Counts, draws: Draws, size: int) -> Bool[np.ndarray, 'n L']:
        """Which tokens of rows of `size` places are cut out (Raffel et al. 2019, as in their code).

        Both the cut tokens and the others are parted into the same number of pieces, all ways
        equally likely; the pieces take turns, and a row begins with one that stays.
        """
        noise, spans = self.counts(lengths)
        kept = _partition(draws, lengths - noise, spans, size)
        cut = _partition(draws, noise, spans, size)
        pieces = np.stack([kept, cut], 2).reshape(len(lengths), -1)
        # Of a piece without tokens nothing is seen: the next one starts at the same place.
        starts = np.cumsum(pieces, 1)[:, :-1] + (size + 1) * np.arange(len(lengths))[:, None]
        begun = np.bincount(starts.ravel(), minlength=len(lengths) * (size + 1))
        number = np.cumsum(begun.reshape(len(lengths), -1), 1)[:, :size]
        inside = np.arange(size) < np.asarray(lengths)[:, None]
        return (number % 2 == 1) & inside


class Cut(NamedTuple):
    """What becomes of rows: each span is a sentinel in the source and follows it in the target."""

    source: Int[np.ndarray, 'n S']
    source_lengths: Counts
    target: Int[np.ndarray, 'n T']
    target_lengths: Counts


def cut_out(tokens: Tokens, lengths: Counts, noise: Bool[np.ndarray, 'n L'], sentinel: int) -> Cut:
    """The text without the spans of `noise`, and the spans (Raffel et al. 2019, figure 2).

    Span i is marked by the id `sentinel` + i; the target ends with the sentinel that no span has.
    Rows are as long as the longest, filled with zeros; empty ones have no target.
    """
    n, size = tokens.shape
    inside = np.arange(size) < np.asarray(lengths)[:, None]
    first = noise & ~np.pad(noise, ((0, 0), (1, 0)))[:, :size]
    span = np.cumsum(first, 1)  # of a token that is cut out, counted from 1
    marked = np.where(first, sentinel + span - 1, tokens)
    source, source_lengths = _pack(marked, inside & (first | ~noise))
    # In the target a token of span i has i sentinels before it, and so many tokens of spans.
    cut = np.cumsum(noise, 1)
    num_cut, num_spans = noise.sum(1), first.sum(1)
    target_lengths = np.where(np.asarray(lengths) > 0, num_cut + num_spans + 1, 0)
    target = np.zeros((n, target_lengths.max(initial=0)), tokens.dtype)
    for where, values, shift in ((noise, tokens, 1), (first, marked, 2)):
        row, column = np.nonzero(where)
        target[row, (cut + span)[row, column] - shift] = values[row, column]
    last = np.flatnonzero(target_lengths)
    target[last, target_lengths[last] - 1] = sentinel + num_spans[last]
    return Cut(source, source_lengths, target, target_lengths)


def _partition(draws: Draws, items: Counts, parts: Counts, size: int) -> Int[np.ndarray, 'n P']:
    """The sizes of `parts` pieces of `items` things, none empty: all ways are equally likely."""
    last = np.iinfo(np.uint64).max
    # A piece may begin at each thing but the first; those with the least keys are chosen.
    places = np.arange(1, size + 1)
    keys = np.where(places < items[:, None], draws.bits(size), last)
    chosen = np.maximum(parts - 1, 0)[:, None]
    begins = keys < np.take_along_axis(np.sort(keys, 1), chosen, 1)
    piece = np.cumsum(np.pad(begins, ((0, 0), (1, 0)))[:, :size], 1)
    most = max(int(parts.max(initial=1)), 1)
    there = np.arange(size) < items[:, None]
    flat = (piece + most * np.arange(len(items))[:, None])[there]
    return np.bincount(flat, minlength=most * len(items)).reshape(-1, most)


def _pack(values: Tokens, keep: Bool[np.ndarray, 'n L']) -> tuple[Int[np.ndarray, 'n P'], Counts]:
    """The kept values of each row side by side, and how many they are."""
    lengths = keep.sum(1)
    packed = np.zeros((len(values), lengths.max(initial=0)), values.dtype)
    packed[np.arange(packed.shape[1]) < lengths[:, None]] = values[keep]
    return packed, lengths
