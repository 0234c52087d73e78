"""TensorFlow Datasets of images, read and decoded without TensorFlow."""

import dataclasses
import functools
import io
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int, UInt8

from bigmodel.data.images import ImageSource
from bigmodel.data.splits import SPLITS
from bigmodel.data.tfds_split import TfdsSplit
from bigmodel.errors import UserError, nearest
from bigmodel.specs import NOT_NEGATIVE

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}  # Pillow's, by the number of channels
ENCODED = 'encoding_format'  # what TFDS's Image features have, and others not
VERSION = 1  # part of the fingerprint: raise it when the same arguments give other rows


@dataclasses.dataclass(frozen=True)
class TfdsImages(TfdsSplit, ImageSource):
    """A TFDS data set of images ('cifar10', 'imagenet2012'), prepared as array_record files.

    `image` is an Image feature, '' when there is only one; `label` a ClassLabel feature, '' for
    none. With `size` the shorter side is scaled to so many pixels (bilinear) and the middle square
    is kept; images of different sizes need it. `train`, `validation` and `test` say which TFDS
    split or slice each of ours reads, such as `validation='train[90%:]'`.
    """

    split: str
    dataset: str
    image: str = ''
    label: str = ''
    size: Annotated[int, NOT_NEGATIVE] = 0
    data_dir: str = ''
    train: str = 'train'
    validation: str = 'validation'
    test: str = 'test'

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.builder.info.features[self._field].shape
        if self.size:
            return self.size, self.size, channels
        if None in (height, width):
            raise UserError(
                f'data.source: images of {self.dataset} are of different sizes; say to which they '
                f'are scaled and cut, as size=224'
            )
        return height, width, channels

    @functools.cached_property
    def label_names(self) -> tuple[str, ...]:
        """The names of the ClassLabel feature; empty without one."""
        if not self.label:
            return ()
        feature = self.feature(self.label, 'label')
        if not hasattr(feature, 'names'):
            raise UserError(
                f'data.source: feature {self.label!r} of {self.dataset} is no ClassLabel'
            )
        return tuple(feature.names)

    def __len__(self) -> int:
        assert self.label_names is not None  # a wrong name shows up here
        return len(self._examples)

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        places = indices.tolist()
        rows = self._examples.__getitems__(places)
        pixels = [self._pixels(row[self._field], i) for row, i in zip(rows, places, strict=True)]
        found = {'image': np.stack(pixels)}
        if not self.label:
            return found
        return found | {'label': np.array([row[self.label] for row in rows], np.int32)}

    def arguments(self) -> tuple[Any, ...]:
        splits = (getattr(self, s) for s in SPLITS)
        return (VERSION, self.dataset, self.image, self.label, self.size, *splits)

    def feature(self, field: str, argument: str) -> Any:
        """The feature that an argument names."""
        features = self.builder.info.features
        if field not in features:
            raise UserError(
                f'data.source: {self.dataset} has no feature {field!r} ({argument}=...).'
                f'{nearest(field, features)} Its features: {", ".join(sorted(features))}'
            )
        return features[field]

    @functools.cached_property
    def _examples(self) -> Any:
        from tensorflow_datasets import decode

        # Left encoded: TFDS's own decoder keeps grey and CMYK files as they are.
        images = [k for k, f in self.builder.info.features.items() if hasattr(f, ENCODED)]
        return self.open_examples({name: decode.SkipDecoding() for name in images})

    @functools.cached_property
    def _field(self) -> str:
        found = [k for k, f in self.builder.info.features.items() if _is_image(f)]
        if not self.image and len(found) != 1:
            listed = ', '.join(sorted(found)) or 'none'
            raise UserError(
                f"data.source: say which image of {self.dataset} to read, as image='...'. "
                f'Its images of 8 bits: {listed}'
            )
        field = self.image or found[0]
        if not _is_image(self.feature(field, 'image')):
            raise UserError(
                f'data.source: feature {field!r} of {self.dataset} is no image of 8 bits'
            )
        return field

    def _pixels(self, encoded: bytes, index: int) -> UInt8[np.ndarray, 'height width channels']:
        """The pixels of a PNG or JPEG file."""
        image = _pillow()
        height, width, channels = self.shape
        try:
            with image.open(io.BytesIO(encoded)) as file:
                picture = file.convert(MODES[channels])
        except OSError as e:
            raise UserError(f'{self.dataset}, example {index}: a damaged image ({e})') from e
        if self.size:
            picture = picture.resize(
                (width, height), image.Resampling.BILINEAR, _middle(*picture.size)
            )
        return np.asarray(picture).reshape(height, width, channels)


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle: left, upper, right, lower."""
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _is_image(feature: Any) -> bool:
    shape = getattr(feature, 'shape', None)
    return hasattr(feature, ENCODED) and feature.np_dtype == np.uint8 and shape[-1] in MODES


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise UserError('data.source: tfds_images needs Pillow: pip install pillow') from None
    return Image
