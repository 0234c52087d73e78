"""Handwritten digits that scikit-learn ships: a data set of images without a download."""

import dataclasses
import functools
import hashlib
from typing import Annotated

import numpy as np
from jaxtyping import Int, Int32, UInt8

from bigmodel.data.images import ImageSource
from bigmodel.data.splits import check_shares, check_split, share_out
from bigmodel.errors import UserError
from bigmodel.specs import SHARE

VERSION = 1  # part of the fingerprint: raise it when the same arguments give other rows


@dataclasses.dataclass(frozen=True)
class Digits(ImageSource):
    """1,797 handwritten digits of 8×8 grey pixels (Alpaydin & Kaynak 1998; of scikit-learn).

    `validation` and `test` are shares, by a hash of the number of the digit; the rest is 'train'.
    """

    split: str
    validation: Annotated[float, SHARE] = 0.1
    test: Annotated[float, SHARE] = 0.2

    label_names = tuple('0123456789')
    shape = (8, 8, 1)

    def __post_init__(self) -> None:
        check_split(self.split)
        share = check_shares(self.validation, self.test).get(self.split, 1.0)
        if not share:
            raise UserError(
                f'data.source: digits({self.split}=0.0) has no split {self.split!r}; set its share'
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        pixels, labels = read()
        digest = hashlib.sha256(f'{VERSION} {self.validation} {self.test}'.encode())
        digest.update(pixels.tobytes() + labels.tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        pixels, labels = read()
        chosen = self._chosen[indices]
        return {'image': pixels[chosen], 'label': labels[chosen]}

    @functools.cached_property
    def _chosen(self) -> Int[np.ndarray, 'n']:
        names = [f'digit {i}' for i in range(len(read()[1]))]
        found = share_out(names, check_shares(self.validation, self.test))
        return np.flatnonzero(np.array(found) == self.split)


@functools.cache
def read() -> tuple[UInt8[np.ndarray, 'n 8 8 1'], Int32[np.ndarray, 'n']]:
    """Every digit and its label; raises UserError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "data.source='digits' needs scikit-learn: pip install scikit-learn"
        ) from None
    found = load_digits()
    # Seventeen shades, 0 to 16.
    pixels = np.rint(found.images[..., None] * (255 / 16)).astype(np.uint8)
    return pixels, found.target.astype(np.int32)
