"""Rows of several sources as those of one, and what is known of them together."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from bigmodel.data.packing import Examples
from bigmodel.data.rows import NO_DOCUMENTS, MadeRows
from bigmodel.data.store import TokenStore
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError

ORIGIN = 'origin'  # the field that says which source a row is of, int32 (n,)
UNLABELLED = -1  # the class of rows of a source without labels, which do not count
Store = TokenStore | MadeRows


@dataclasses.dataclass(frozen=True)
class Open:
    """One source of a mixture, opened."""

    share: float  # of the rows of training
    store: Store
    examples: Examples
    about: str

    @property
    def num_rows(self) -> int:
        """The rows of one epoch."""
        return len(self.examples)


class MixedRows:
    """The rows of all sources, one after the other, with the `origin` of each.

    Raises UserError where they have different fields or labels. Rows without a class get -1.
    """

    def __init__(self, parts: Mapping[str, Open]) -> None:
        self._parts = [part.examples for part in parts.values()]
        self._first = np.cumsum([0, *map(len, self._parts)])
        self.length = self._parts[0].length
        self.num_truncated = sum(part.num_truncated for part in self._parts)
        self.labelled = any(part.labelled for part in self._parts)
        self.label_names = _label_names(parts)
        self.documents = _documents(parts)
        _check_fields(parts)

    @property
    def padding_share(self) -> float:
        """The share of all tokens that is padding."""
        return float(np.average([p.padding_share for p in self._parts], weights=self.sizes))

    @property
    def sizes(self) -> list[int]:
        """The rows of each source."""
        return [len(part) for part in self._parts]

    def __len__(self) -> int:
        return int(self._first[-1])

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""
        indices = np.asarray(indices, np.int64)
        origin = np.searchsorted(self._first, indices, side='right') - 1
        rows: dict[str, np.ndarray] = {}
        for k in np.unique(origin).tolist():
            here = origin == k
            for field, values in self._of(k, indices[here] - self._first[k]).items():
                shape = (len(indices), *values.shape[1:])
                rows.setdefault(field, np.zeros(shape, values.dtype))[here] = values
        return rows | {ORIGIN: origin.astype(np.int32)}

    def _of(self, number: int, indices: Int[np.ndarray, 'm']) -> dict[str, np.ndarray]:
        rows = self._parts[number].take(indices)
        if not self.labelled or 'label' in rows:
            return rows
        return rows | {'label': np.full(len(indices), UNLABELLED, np.int32)}


class MixedStore:
    """What a run asks a token store for, of all sources of a mixture together."""

    def __init__(self, parts: Mapping[str, Open], label_names: tuple[str, ...]) -> None:
        stores = [part.store for part in parts.values()]
        self.label_names, self.labelled = label_names, any(s.labelled for s in stores)
        self.tokenizer: Tokenizer = _tokenizer(parts)
        self.num_bytes = sum(s.num_bytes for s in stores)
        texts = [s for s in stores if s.num_bytes]
        self.num_tokens = sum(s.num_tokens for s in texts)
        self.num_documents = sum(s.num_documents for s in texts)
        bits = sum(s.gzip_bits_per_byte * s.num_bytes for s in texts)
        self.gzip_bits_per_byte = bits / max(self.num_bytes, 1)
        key = repr([(name, p.share, p.store.fingerprint) for name, p in parts.items()])
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]


def _documents(parts: Mapping[str, Open]) -> Int[np.ndarray, 'of']:
    """The document of each row, those of all sources counted in one go; none where rows of a source
    have several.
    """
    found, before = [], 0
    for part in parts.values():
        if not part.examples.documents.size:
            return NO_DOCUMENTS
        found.append(before + part.examples.documents)
        before += part.store.num_documents
    return np.concatenate(found)


def _tokenizer(parts: Mapping[str, Open]) -> Tokenizer:
    """The one tokenizer; raises UserError where a source has symbols of its own."""
    (first, one), *others = parts.items()
    for name, part in others:
        if part.store.tokenizer.fingerprint != one.store.tokenizer.fingerprint:
            raise UserError(
                f'data.mixture: {name} has other tokens than {first}: probes have symbols of their '
                f'own and images none, so that they mix with their like alone'
            )
    return one.store.tokenizer


def _check_fields(parts: Mapping[str, Open]) -> None:
    """Rows of all sources must have the same fields, of the same shapes, but for labels."""
    found = {name: _fields(part.examples) for name, part in parts.items()}
    (first, wanted), *others = found.items()
    for name, fields in others:
        for field in sorted({*wanted, *fields}):
            ours, theirs = fields.get(field, 'nothing'), wanted.get(field, 'nothing')
            if ours != theirs:
                raise UserError(
                    f'data.mixture: {name} has {ours} for the field {field!r} of a row, {first} '
                    f'has {theirs}; give them the same format and packing'
                )


def _fields(examples: Examples) -> dict[str, str]:
    row = examples.take(np.zeros(1, np.int64))
    return {k: f'{v.dtype}{list(v.shape[1:])}' for k, v in row.items() if k != 'label'}


def _label_names(parts: Mapping[str, Open]) -> tuple[str, ...]:
    """The classes, the same for all sources whose rows carry any."""
    carrying = {name: part for name, part in parts.items() if _carries_labels(part)}
    names = {name: part.store.label_names for name, part in carrying.items()}
    for name, theirs in names.items():
        first, wanted = next(iter(names.items()))
        if theirs != wanted:
            raise UserError(
                f'data.mixture: {name} has {_listed(theirs)}, {first} has {_listed(wanted)}; all '
                f"must be the same (rows of data.packing='stream' carry no labels)"
            )
    numbers = [name for name, theirs in names.items() if not theirs]
    if numbers and len(carrying) < len(parts):
        rest = next(name for name in parts if name not in carrying)
        raise UserError(
            f'data.mixture: {numbers[0]} has numbers for labels and {rest} has none, which no '
            f'number can stand for; leave one of them out'
        )
    return next(iter(names.values()), ())


def _carries_labels(part: Open) -> bool:
    """Whether rows have labels, or marks of their tokens that say their classes."""
    in_marks = part.store.marked and bool(part.store.label_names)
    return part.examples.labelled or in_marks


def _listed(names: tuple[Any, ...]) -> str:
    return f'the labels {", ".join(map(str, names))}' if names else 'numbers for labels'
