"""What a source is that makes its rows itself, so that there is no token store."""

import abc

import numpy as np
from jaxtyping import Int

from bigmodel.data.tokenizers import Tokenizer

NO_DOCUMENTS = np.zeros(0, np.int64)


class MadeRows(abc.ABC):
    """One split as `Examples`, and all that a run asks a token store for."""

    num_truncated, padding_share = 0, 0.0
    documents = NO_DOCUMENTS
    marked = False  # whether tokens have marks that a task reads
    num_bytes, gzip_bits_per_byte = 0, 0.0  # there is no text to compress
    label_names: tuple[str, ...] = ()
    tokenizer: Tokenizer
    fingerprint: str  # of what decides the rows of all splits
    length: int

    @property
    def labelled(self) -> bool:
        """Whether `take` gives labels."""
        return bool(self.label_names)

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abc.abstractmethod
    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""

    @abc.abstractmethod
    def summary(self) -> str:
        """What a report says of the rows."""


class RowSource(abc.ABC):
    """One split of a data set whose rows are made when they are read; cheap to build."""

    split: str

    @abc.abstractmethod
    def open(self, length: int) -> MadeRows:
        """The rows, of `length` tokens where they are of tokens; may read the data."""
