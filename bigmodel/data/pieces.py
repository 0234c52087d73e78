"""Rows that are pieces of a token store's documents."""

import numpy as np
from jaxtyping import Int, Shaped

from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.data.store import TokenStore


class Pieces:
    """Rows made of pieces of documents: piece p is `sizes[p]` tokens of the store at `starts[p]`.

    Row r holds pieces row_offsets[r] to row_offsets[r + 1], side by side.
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        starts: Int[np.ndarray, 'pieces'],
        sizes: Int[np.ndarray, 'pieces'],
        row_offsets: Int[np.ndarray, 'rows_1'],
        labels: Shaped[np.ndarray, 'rows'] | None = None,
        num_truncated: int = 0,
        documents: Int[np.ndarray, 'of'] = NO_DOCUMENTS,
    ) -> None:
        self.documents = documents  # of each row; none where a row has several
        self.store, self.length, self.num_truncated = store, length, num_truncated
        self._starts, self._sizes, self._row_offsets = starts, sizes, row_offsets
        self._labels = labels

    @property
    def padding_share(self) -> float:
        """The share of all tokens that is padding."""
        return 1 - int(self._sizes.sum()) / (len(self) * self.length)

    @property
    def labelled(self) -> bool:
        """Whether `take` gives labels."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._row_offsets) - 1

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""
        indices = np.asarray(indices, np.int64)
        first = self._row_offsets[indices]
        counts = self._row_offsets[indices + 1] - first
        row, piece = ragged(counts, first)
        number = piece - first[row] + 1
        sizes = self._sizes[piece]
        owner, position = ragged(sizes, np.zeros_like(sizes))
        # Where each piece starts in the batch laid flat: its row's start plus the pieces before it.
        before = np.cumsum(sizes) - sizes
        row_start = before[np.searchsorted(row, row)]
        target = (row * self.length + before - row_start)[owner] + position
        shape = (len(indices), self.length)
        tokens = np.full(shape, self.store.pad_id, np.int32)
        segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        source = self._starts[piece][owner] + position
        tokens.ravel()[target] = self.store.gather(source)
        segments.ravel()[target] = number[owner]
        positions.ravel()[target] = position
        rows = {'tokens': tokens, 'segments': segments, 'positions': positions}
        if self.store.marked:
            rows['marks'] = np.zeros(shape, np.int32)
            rows['marks'].ravel()[target] = self.store.marks(source)
        return rows if self._labels is None else rows | {'label': self._labels[indices]}


def ragged(
    counts: Int[np.ndarray, 'n'], first: Int[np.ndarray, 'n']
) -> tuple[Int[np.ndarray, 'm'], Int[np.ndarray, 'm']]:
    """Joins range(first[i], first[i] + counts[i]) for all i: (i of each entry, the entries)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) + (first - before)[owner]
