"""Examples as documents: a source whose fields a format has made text of."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bigmodel.data.format import Document, Format, Row
from bigmodel.data.source import Source


@runtime_checkable
class Texts(Protocol):
    """What a tokenizer is trained on."""

    def __len__(self) -> int:
        """How many examples there are."""

    def texts(self) -> Iterator[str]:
        """All text, a document at a time."""


class Documents:
    """The documents of a source's split, `format.group` for each example."""

    def __init__(self, source: Source, format: Format) -> None:
        self.source, self.format = source, format
        self.name, self.split = source.name, source.split

    @functools.cached_property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in order, the same for all splits; empty when there are none."""
        return self.format.label_names(self.source)

    @property
    def fingerprint(self) -> str:
        """Of the content of all splits, and of what the format makes of it."""
        return f'{self.source.fingerprint} {self.format!r}'

    def quick_key(self) -> str:
        """Changes whenever `fingerprint` might have."""
        return f'{self.source.quick_key()} {self.format!r}'

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Document, ...]:
        return self.format(Row(self.source, index))

    def texts(self) -> Iterator[str]:
        """All text, a document at a time."""
        for i in range(len(self)):
            for document in self[i]:
                yield ''.join(piece.text for part in document.parts for piece in part)

    def references(self, number: int) -> tuple[str, ...]:
        """The texts that are right of the example of a document (`Format.references`)."""
        return self.format.references(Row(self.source, number // self.format.group))

    def __getstate__(self) -> dict[str, Any]:
        return {'source': self.source, 'format': self.format}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


class References:
    """The right texts by the number of a document, those of all sources counted in one go."""

    def __init__(self, sources: Sequence[Documents]) -> None:
        self._sources = sources
        self._first = np.cumsum([0, *(len(s) * s.format.group for s in sources)])

    def __call__(self, document: int) -> tuple[str, ...]:
        which = int(np.searchsorted(self._first, document, side='right')) - 1
        return self._sources[which].references(document - int(self._first[which]))
