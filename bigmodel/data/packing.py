"""From a token store to rows of a fixed length: the slot `data.packing`."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from bigmodel import specs
from bigmodel.data.first_fit import assign_rows
from bigmodel.data.pieces import Pieces, ragged
from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.data.sides import Sides
from bigmodel.data.store import TokenStore
from bigmodel.data.strided import Strided
from bigmodel.errors import UserError


@runtime_checkable
class Examples(Protocol):
    """Rows by index. `take` gives, for n indices, arrays whose first dimension is n:

    tokens int32 (n, length); segments int32 (n, length), 1-based number of the document within the
    row, 0 where the row is padding; positions int32 (n, length), from 0 in each piece of a
    document; label (n,), int32 classes or float32 numbers, where a row is one labelled document (or
    a piece of one); marks int32 (n, length) where the format has them, 0 in padding; weights
    float32 (n, length) where not every token's prediction counts alike; elsewhere int32 (n,), 1
    where the answer of the row's document is in another row. Where an example is a group
    of g documents, arrays are (n, g, length), but for the label. Rows of images have image uint8
    (n, height, width, channels) instead of tokens.
    """

    length: int
    num_truncated: int
    documents: Int[np.ndarray, 'of']  # of each row; none where a row has several, or there are none

    @property
    def padding_share(self) -> float:
        """The share of all tokens that is padding."""

    @property
    def labelled(self) -> bool:
        """Whether `take` gives labels."""

    def __len__(self) -> int:
        """The number of rows."""

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""


class Stream:
    """Documents one after the other, cut into rows that start every `length - overlap` tokens.

    With `segments`, the last row may end in padding, so that no token is lost; without, rows are
    plain contiguous text and the rest of less than a row is dropped.
    """

    labelled, num_truncated = False, 0
    documents = NO_DOCUMENTS

    def __init__(
        self, store: TokenStore, length: int, overlap: int = 0, segments: bool = True
    ) -> None:
        self.store, self.length, self.segments = store, length, segments
        self.stride = length - overlap
        new = store.num_tokens - overlap
        self._count = max(1, -(-new // self.stride)) if segments else max(0, new // self.stride)
        if not self._count:
            raise UserError(
                f'data.seq_len: the split {store.split!r} has {store.num_tokens} tokens, '
                f'fewer than one row of {length}'
            )

    @property
    def padding_share(self) -> float:
        """The share of all tokens that is padding: at most a part of the last row."""
        used = min(self.length, self.store.num_tokens - (self._count - 1) * self.stride)
        return (self.length - used) / (self._count * self.length)

    def __len__(self) -> int:
        return self._count

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""
        starts = np.asarray(indices, np.int64) * self.stride
        where = starts[:, None] + np.arange(self.length)
        inside = where < self.store.num_tokens
        if inside.all():
            tokens = self.store.gather(where)
        else:
            last = self.store.num_tokens - 1
            tokens = np.where(inside, self.store.gather(np.minimum(where, last)), self.store.pad_id)
        rows = {'tokens': tokens.astype(np.int32)}
        if self.store.marked:
            marks = self.store.marks(np.minimum(where, self.store.num_tokens - 1))
            rows['marks'] = marks.astype(np.int32) * inside
        return rows | self._segments(starts, inside) if self.segments else rows

    def _segments(self, starts: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
        offsets, n = self.store.offsets, len(starts)
        first = np.searchsorted(offsets, starts, side='right')
        counts = np.searchsorted(offsets, starts + self.length, side='left') - first
        row, document = ragged(counts, first)
        begins = np.zeros((n, self.length), np.int32)
        begins[row, offsets[document] - starts[row]] = 1
        segments = 1 + np.cumsum(begins, axis=1, dtype=np.int32)
        column = np.arange(self.length, dtype=np.int32)
        positions = column - np.maximum.accumulate(begins * column, axis=1)
        return {'segments': segments * inside, 'positions': positions * inside}


class Groups:
    """Rows of which `group` successive ones are one example."""

    def __init__(self, rows: Pieces, group: int) -> None:
        self.rows, self.group, self.length = rows, group, rows.length
        self.num_truncated, self.labelled = rows.num_truncated, rows.labelled
        self.padding_share = rows.padding_share
        self.documents = rows.documents[::group]

    def __len__(self) -> int:
        return len(self.rows) // self.group

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The examples at `indices`."""
        of = np.asarray(indices, np.int64)[:, None] * self.group + np.arange(self.group)
        rows = self.rows.take(of.ravel())
        rows = {k: v.reshape(*of.shape, *v.shape[1:]) for k, v in rows.items()}
        return rows | ({'label': rows['label'][:, 0]} if self.labelled else {})


def first_fit(store: TokenStore, length: int, overlap: int = 0) -> Pieces:
    """Whole documents, each in the first row with room; longer ones are cut to rows first."""
    starts, sizes, _ = _cut(store, length, overlap)
    row = assign_rows(sizes, length)
    order = np.argsort(row, kind='stable')
    row_offsets = np.concatenate([[0], np.cumsum(np.bincount(row))])
    return Pieces(store, length, starts[order], sizes[order], row_offsets)


def windows(store: TokenStore, length: int, overlap: int = 0) -> Pieces:
    """Each document cut into rows, one piece a row, with the document's label."""
    starts, sizes, document = _cut(store, length, overlap)
    labels = None if store.labels is None else store.labels[document]
    rows = np.arange(len(starts) + 1)
    return Pieces(store, length, starts, sizes, rows, labels, documents=document)


def pad(store: TokenStore, length: int, truncate: bool = False) -> Pieces | Groups:
    """One document a row, with its label; longer ones are a UserError unless `truncate`.

    Documents of one example stay together.
    """
    sizes = np.diff(store.offsets)
    longer = int((sizes > length).sum())
    if longer and not truncate:
        windows = "'windows', " if store.group == 1 else ''
        raise UserError(
            f'data.packing: {longer} of {len(sizes)} documents of the split {store.split!r} are '
            f'longer than {length} tokens (the longest has {sizes.max()}); use '
            f"data.packing='pad(truncate=True)', {windows}or a larger data.seq_len"
        )
    whole = (sizes.reshape(-1, store.group) > 0).all(1)
    keep = np.flatnonzero(np.repeat(whole, store.group))
    labels = None if store.labels is None else store.labels[keep]
    starts, sizes = store.offsets[keep], np.minimum(sizes[keep], length)
    rows = Pieces(store, length, starts, sizes, np.arange(len(keep) + 1), labels, longer, keep)
    return rows if store.group == 1 else Groups(rows, store.group)


def num_alike(store: TokenStore, length: int) -> int:
    """The examples of several documents, some longer than `length` tokens, of which two begin with
    the same `length` tokens: what was to tell them apart is cut off.
    """
    sizes = np.diff(store.offsets).reshape(-1, store.group)
    firsts = np.asarray(store.offsets[:-1]).reshape(-1, store.group)
    count = 0
    for group in np.flatnonzero((sizes > length).any(1) & ((sizes >= length).sum(1) > 1)):
        starts = firsts[group][sizes[group] >= length]
        rows = store.gather(starts[:, None] + np.arange(length))
        count += len(np.unique(rows, axis=0)) < len(rows)
    return count


PACKINGS = {
    'stream': Stream,
    'first_fit': first_fit,
    'windows': windows,
    'pad': pad,
    'sides': Sides,
    'strided': Strided,
}


def build_examples(spec: str, store: TokenStore, length: int, overlap: int = 0) -> Examples:
    """The packing that `spec` names, over `store`, in rows of `length` tokens."""
    if not 0 <= overlap < length:
        raise UserError(f'data.seq_len: rows of {length} tokens cannot overlap by {overlap}')
    if store.group > 1 and specs.parse(spec, 'data.packing').name != 'pad':
        raise UserError(
            f'data.packing={spec!r} would tear apart the {store.group} documents of an example; '
            f"use 'pad'"
        )
    context = {'store': store, 'length': length, 'overlap': overlap}
    return specs.make(PACKINGS, spec, 'data.packing', **context)


def _cut(
    store: TokenStore, length: int, overlap: int
) -> tuple[Int[np.ndarray, 'p'], Int[np.ndarray, 'p'], Int[np.ndarray, 'p']]:
    """Pieces of at most `length` tokens: their starts, sizes and documents (empty ones have none).

    As in a stream, pieces start every `length - overlap` tokens, so that a model that predicts all
    but a row's first `overlap` tokens predicts each token of a document once.
    """
    stride = length - overlap
    sizes = np.diff(store.offsets)
    counts = np.where(sizes > 0, np.maximum(1, -(-(sizes - overlap) // stride)), 0)
    document, number = ragged(counts, np.zeros_like(counts))
    starts = number * stride
    return store.offsets[document] + starts, np.minimum(sizes[document] - starts, length), document
