"""What a source of documents is."""

import abc
from typing import Any


class Source(abc.ABC):
    """One split of a data set, a document at a time; cheap to build, picklable."""

    name: str
    split: str

    @property
    @abc.abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in order, the same for all splits; empty when unlabelled."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content of the whole data set (all splits); may read all of it."""

    @abc.abstractmethod
    def quick_key(self) -> str:
        """Changes whenever `fingerprint` might have: from names, sizes and times only."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of documents in this split."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{'text': str}`, with `'label': int` when the source is labelled."""
