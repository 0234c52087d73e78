"""TensorFlow Datasets, read without TensorFlow (array_record files)."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import numpy as np

from bigmodel.data import tfds_prepared
from bigmodel.data.fields import lookup
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class TfdsSource(Source):
    """A TFDS data set: `name` as TFDS writes it ('glue/sst2', 'imdb_reviews:1.0.0').

    `train`, `validation` and `test` say which TFDS split or slice
    each of ours reads, such as `validation='train[90%:]'`.
    """

    split: str
    dataset: str
    data_dir: str = ''
    train: str = 'train'
    validation: str = 'validation'
    test: str = 'test'

    @property
    def name(self) -> str:
        """For folders and messages."""
        return 'tfds-' + ''.join(c if c.isalnum() else '_' for c in self.dataset)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of TFDS's description of the prepared files, and of this source's arguments."""
        digest = hashlib.sha256(repr(self._arguments()).encode())
        for file in sorted(self._folder.iterdir()):
            digest.update(f'{file.name} {file.stat().st_size}\n'.encode())
            if file.suffix == '.json':
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def quick_key(self) -> str:
        """From the sizes and times of the prepared versions' descriptions."""
        found = tfds_prepared.candidates(self.dataset, self.data_dir)
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in found]
        return f'{self._arguments()} {stats}'

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

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the open files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.dataset, *(getattr(self, s) for s in SPLITS))

    @functools.cached_property
    def _folder(self) -> pathlib.Path:
        return tfds_prepared.folder(self.dataset, self.data_dir)

    @functools.cached_property
    def _builder(self) -> Any:
        return tfds_prepared.open_folder(self._folder)

    @functools.cached_property
    def _examples(self) -> Any:
        builder = self._builder
        split = getattr(self, self.split) if self.split in SPLITS else self.split
        try:
            assert builder.info.splits[split].num_examples is not None
            return builder.as_data_source(split=split)
        except (ValueError, KeyError, AssertionError) as e:
            raise UserError(
                f'data.source: {self.dataset} has no split {split!r}; there are: '
                f'{", ".join(builder.info.splits)}. A slice will do, as in '
                f"tfds({self.dataset!r}, validation='train[90%:]', train='train[:90%]')"
            ) from e

    @functools.cached_property
    def _features(self) -> dict[str, Any]:
        return _as_dict(self._builder.info.features)


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
