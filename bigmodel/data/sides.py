"""Prompts and responses, each with a room of its own in a row."""

import itertools

import numpy as np
from jaxtyping import Int

from bigmodel.data.pieces import Pieces
from bigmodel.data.store import TokenStore
from bigmodel.errors import UserError

CHUNK = 1 << 24  # tokens whose marks are read at once


class Sides(Pieces):
    """One document a row: a prompt of at most `length - overlap` tokens and a response of at most
    `overlap`, those with mark 1.

    Longer ones are a UserError unless `truncate`; then the beginning of either is kept.
    """

    def __init__(
        self, store: TokenStore, length: int, overlap: int = 0, truncate: bool = False
    ) -> None:
        room = np.array([length - overlap, overlap])
        keep = np.flatnonzero(np.diff(store.offsets))
        sizes = sides_of(store)[keep]
        longer = int((sizes > room).any(1).sum())
        if longer and not truncate:
            raise UserError(
                f'data.packing: {longer} of {len(sizes)} examples of the split {store.split!r} '
                f'have more than {room[0]} tokens in the prompt (the longest has '
                f'{sizes[:, 0].max()}) or {room[1]} in the response ({sizes[:, 1].max()}); use '
                f"data.packing='sides(truncate=True)', a larger data.seq_len, or a larger "
                f'target_length of the task'
            )
        first = store.offsets[keep]
        starts = np.stack([first, first + sizes[:, 0]], 1).ravel()
        fitting = np.minimum(sizes, room).ravel()
        rows = 2 * np.arange(len(keep) + 1)
        super().__init__(store, length, starts, fitting, rows, num_truncated=longer, documents=keep)

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        rows = super().take(indices)
        here = (rows['segments'] > 0).astype(np.int32)  # both sides are one document
        places = np.arange(self.length, dtype=np.int32)
        return rows | {'segments': here, 'positions': here * places}


def sides_of(store: TokenStore) -> Int[np.ndarray, 'documents 2']:
    """How many tokens the prompt and the response of each document have.

    Raises UserError where there are no marks, or where a response is not the end of a document.
    """
    if not store.marked:
        raise UserError("data.packing='sides' needs responses: set data.format=prompt")
    offsets, found = np.asarray(store.offsets), []
    # Documents that begin in the same chunk.
    bounds = np.flatnonzero(np.diff(offsets[:-1] // CHUNK, prepend=-1, append=np.inf))
    for low, high in itertools.pairwise(bounds.tolist()):
        ends = offsets[low : high + 1] - offsets[low]
        marks = store.marks(offsets[low] + np.arange(ends[-1])) == 1
        before = np.concatenate([[0], np.cumsum(marks)])
        size = before[ends[1:]] - before[ends[:-1]]
        if (before[ends[1:]] - before[ends[1:] - size] != size).any():
            raise UserError(
                "data.packing='sides' splits documents into a prompt and one response, but some "
                'have several turns; set data.format=prompt'
            )
        found.append(np.stack([np.diff(ends) - size, size], 1))
    return np.concatenate(found)
