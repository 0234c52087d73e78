"""Windows of contexts that are longer than a row, each with its question before it."""

import itertools
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int

from bigmodel.data.pieces import Pieces, ragged
from bigmodel.data.store import TokenStore
from bigmodel.errors import UserError
from bigmodel.specs import POSITIVE

CHUNK = 1 << 24  # tokens whose marks are read at once
ANSWER, CONTEXT = 1, 2  # marks of `data.format=span`


class Contexts(NamedTuple):
    """Where things are in the store, of each document; an answer of no tokens is none."""

    begin: Int[np.ndarray, ' D']  # of the context
    end: Int[np.ndarray, ' D']  # and of the token that ends the document
    answer: Int[np.ndarray, ' D']
    answer_end: Int[np.ndarray, ' D']


class Strided(Pieces):
    """Rows `question context`, of as many tokens of the context as there is room for; windows of a
    longer one begin every `stride` tokens (Devlin et al. 2018, SQuAD; their doc_stride).

    Where a row has not the whole answer of its document, no token is marked as the answer, and
    `elsewhere` int32 (n,) is 1. UserError for a question that fills the row.
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        overlap: int = 0,
        stride: Annotated[int, POSITIVE] = 128,
    ) -> None:
        keep = np.flatnonzero(np.diff(store.offsets))
        first, found = np.asarray(store.offsets)[keep], contexts_of(store)
        found = Contexts(*(column[keep] for column in found))
        room = length - (found.begin - first) - 1  # for the context
        if (room < 1).any():
            raise UserError(
                f'data.packing: {int((room < 1).sum())} of {len(keep)} questions of the split '
                f'{store.split!r} leave no room for their context in {length} tokens; use a larger '
                f'data.seq_len or shorter questions'
            )
        size = found.end - found.begin
        step = np.minimum(stride, room)  # no token is between two windows
        counts = 1 + np.maximum(0, -(-(size - room) // step))
        of, number = ragged(counts, np.zeros_like(counts))
        begin = found.begin[of] + number * step[of]
        end = np.minimum(begin + room[of], found.end[of])
        starts = np.stack([first[of], begin, found.end[of]], 1)
        sizes = np.stack([found.begin[of] - first[of], end - begin, np.ones_like(of)], 1)
        rows = 3 * np.arange(len(of) + 1)
        super().__init__(store, length, starts.ravel(), sizes.ravel(), rows, documents=keep[of])
        answered = found.answer_end > found.answer
        inside = (found.answer[of] >= begin) & (found.answer_end[of] <= end)
        self._elsewhere = (answered[of] & ~inside).astype(np.int32)

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        rows = super().take(indices)
        elsewhere = self._elsewhere[indices]
        partial = (rows['marks'] == ANSWER) & (elsewhere[:, None] > 0)
        here = (rows['segments'] > 0).astype(np.int32)  # all of a row is one document
        return rows | {
            'marks': np.where(partial, np.int32(CONTEXT), rows['marks']),
            'segments': here,
            'positions': here * np.arange(self.length, dtype=np.int32),
            'elsewhere': elsewhere,
        }


def contexts_of(store: TokenStore) -> Contexts:
    """Where the marked part of each document is, and what has the mark 1 in it.

    Raises UserError where there are no marks.
    """
    if not store.marked:
        raise UserError("data.packing='strided' needs contexts: set data.format=span")
    offsets, found = np.asarray(store.offsets), []
    # Documents that begin in the same chunk.
    bounds = np.flatnonzero(np.diff(offsets[:-1] // CHUNK, prepend=-1, append=np.inf))
    for low, high in itertools.pairwise(bounds.tolist()):
        first = offsets[low]
        begins, ends = offsets[low:high] - first, offsets[low + 1 : high + 1] - first
        marks = store.marks(first + np.arange(ends[-1]))
        last = np.maximum(ends - 1, begins)  # the token that ends the document
        context = np.minimum(_next(np.flatnonzero(marks), begins), last)
        answers = np.flatnonzero(marks == ANSWER)
        count = np.searchsorted(answers, last) - np.searchsorted(answers, begins)
        answer = _next(answers, begins)
        found.append(np.stack([context, last, answer, answer + count]) + first)
    return Contexts(*np.concatenate(found, 1))


def _next(places: Int[np.ndarray, ' n'], after: Int[np.ndarray, ' D']) -> Int[np.ndarray, ' D']:
    """The first place at `after` or beyond it; beyond all where there is none."""
    beyond = np.append(places, np.iinfo(np.int64).max // 2)
    return beyond[np.searchsorted(places, after)]
