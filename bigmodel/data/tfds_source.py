"""TensorFlow Datasets, read without TensorFlow (array_record files)."""

import dataclasses
import functools
from typing import Any

import numpy as np

from bigmodel.data import tfds_prepared
from bigmodel.data.fields import lookup
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS
from bigmodel.data.tfds_split import TfdsSplit
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class TfdsSource(TfdsSplit, Source):
    """A TFDS data set: `name` as TFDS writes it ('glue/sst2', 'imdb_reviews:1.0.0').

    `train`, `validation` and `test` say which TFDS split or slice each of ours reads, such as
    `validation='train[90%:]'`.
    """

    split: str
    dataset: str
    data_dir: str = ''
    train: str = 'train'
    validation: str = 'validation'
    test: str = 'test'

    def quick_key(self) -> str:
        """From the sizes and times of the prepared versions' descriptions."""
        found = tfds_prepared.candidates(self.dataset, self.data_dir)
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in found]
        return f'{self.arguments()} {stats}'

    @functools.cached_property
    def text_field(self) -> str:
        """The only text feature."""
        texts = sorted(k for k, f in self._features.items() if _is_text(f))
        if len(texts) != 1:
            raise UserError(
                f"data.format: say which text of {self.dataset} to read, as text(text='...'). "
                f'Its text features: {", ".join(texts) or "none"}'
            )
        return texts[0]

    def class_names(self, field: str) -> tuple[str, ...]:
        """The names of a ClassLabel feature, or of a sequence of them."""
        feature = lookup(self._features, field, f'data.format: features of {self.dataset}')
        feature = getattr(feature, 'feature', feature)
        if not hasattr(feature, 'names'):
            raise UserError(f'data.format: feature {field!r} of {self.dataset} is no ClassLabel')
        return tuple(feature.names)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return _plain(self._examples[index])
        except UnicodeDecodeError as e:
            raise UserError(f'{self.place(index)}: text is not UTF-8 ({e})') from e

    def arguments(self) -> tuple[Any, ...]:
        return (self.dataset, *(getattr(self, s) for s in SPLITS))

    @functools.cached_property
    def _examples(self) -> Any:
        return self.open_examples()

    @functools.cached_property
    def _features(self) -> dict[str, Any]:
        return _as_dict(self.builder.info.features)


def _as_dict(feature: Any) -> Any:
    return {k: _as_dict(f) for k, f in feature.items()} if hasattr(feature, 'items') else feature


def _plain(value: Any) -> Any:
    """A value of TFDS as strings, numbers, lists and dicts."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _is_text(feature: Any) -> bool:
    return getattr(feature, 'shape', None) == () and feature.np_dtype in (object, str)
