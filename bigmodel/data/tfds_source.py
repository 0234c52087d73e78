"""TensorFlow Datasets as documents, read without TensorFlow (array_record files)."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from bigmodel.data import tfds_prepared
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS
from bigmodel.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class TfdsSource(Source):
    """A TFDS data set: `name` as TFDS writes it ('glue/sst2', 'imdb_reviews:1.0.0').

    `text` is a text feature (several are joined by a newline), '' when there is only one; `label` a
    ClassLabel feature, '' for none. `train`, `validation` and `test` say which TFDS split or slice
    each of ours reads, such as `validation='train[90%:]'`.
    """

    split: str
    dataset: str
    text: str | tuple = ''
    label: str = ''
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
    def label_names(self) -> tuple[str, ...]:
        """The names of the ClassLabel feature; empty without one."""
        return tuple(self._feature(self.label, 'label').names) if self.label else ()

    def __len__(self) -> int:
        assert self._text_fields and self.label_names is not None  # wrong names show up here
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._examples[index]
        try:
            text = '\n'.join(row[field].decode() for field in self._text_fields)
        except UnicodeDecodeError as e:
            raise UserError(f'{self.dataset}, example {index}: text is not UTF-8 ({e})') from e
        return {'text': text} | ({'label': int(row[self.label])} if self.label else {})

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the open files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.dataset, self.text, self.label, *(getattr(self, s) for s in SPLITS))

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
    def _text_fields(self) -> tuple[str, ...]:
        texts = [k for k, f in self._builder.info.features.items() if _is_text(f)]
        if not self.text and len(texts) != 1:
            listed = ', '.join(sorted(texts)) or 'none'
            raise UserError(
                f"data.source: say which text of {self.dataset} to read, as text='...'. "
                f'Its text features: {listed}'
            )
        fields = (self.text,) if isinstance(self.text, str) else self.text
        fields = fields if self.text else tuple(texts)
        for field in fields:
            if not _is_text(self._feature(field, 'text')):
                raise UserError(f'data.source: feature {field!r} of {self.dataset} is not text')
        return fields

    def _feature(self, field: str, argument: str) -> Any:
        features = self._builder.info.features
        if field not in features:
            raise UserError(
                f'data.source: {self.dataset} has no feature {field!r} ({argument}=...).'
                f'{nearest(field, features)} Its features: {", ".join(sorted(features))}'
            )
        if argument == 'label' and not hasattr(features[field], 'names'):
            raise UserError(f'data.source: feature {field!r} of {self.dataset} is no ClassLabel')
        return features[field]


def _is_text(feature: Any) -> bool:
    return getattr(feature, 'shape', None) == () and feature.np_dtype in (object, str)
