"""What a source of images is: rows of one image and its label, without tokens."""

import abc

import numpy as np
from jaxtyping import Int

from bigmodel.data.plain_tokenizers import NoTokenizer
from bigmodel.data.rows import MadeRows, RowSource


class ImageSource(RowSource):
    """One split of a data set of images of one size."""

    @property
    @abc.abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in order; empty when unlabelled."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what decides the rows of all splits."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of images in this split."""

    @abc.abstractmethod
    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """image uint8 (n, height, width, channels); label int32 (n,) when labelled."""

    def open(self, length: int) -> 'ImageRows':
        return ImageRows(self, length)


class ImageRows(MadeRows):
    """Images as `Examples`: how many tokens one becomes is for the model to say."""

    tokenizer = NoTokenizer()

    def __init__(self, source: ImageSource, length: int) -> None:
        self.source, self.length = source, length
        self.label_names, self.fingerprint = source.label_names, source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        return self.source.take(np.asarray(indices, np.int64))

    def summary(self) -> str:
        sizes = '×'.join(map(str, self.source.shape))
        return f'{len(self):,} images of {sizes}, {len(self.label_names) or "no"} labels'
