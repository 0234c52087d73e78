"""TensorFlow Datasets as documents, read without TensorFlow (array_record files)."""

import dataclasses
import functools
from typing import Any

from bigmodel.data import tfds_prepared
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS
from bigmodel.data.tfds_split import TfdsSplit
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class TfdsSource(TfdsSplit, Source):
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

    def quick_key(self) -> str:
        """From the sizes and times of the prepared versions' descriptions."""
        found = tfds_prepared.candidates(self.dataset, self.data_dir)
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in found]
        return f'{self.arguments()} {stats}'

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

    def arguments(self) -> tuple[Any, ...]:
        return (self.dataset, self.text, self.label, *(getattr(self, s) for s in SPLITS))

    @functools.cached_property
    def _examples(self) -> Any:
        return self.open_examples()

    @functools.cached_property
    def _text_fields(self) -> tuple[str, ...]:
        texts = [k for k, f in self.builder.info.features.items() if _is_text(f)]
        if not self.text and len(texts) != 1:
            listed = ', '.join(sorted(texts)) or 'none'
            raise UserError(
                f"data.source: say which text of {self.dataset} to read, as text='...'. "
                f'Its text features: {listed}'
            )
        fields = (self.text,) if isinstance(self.text, str) else self.text
        fields = fields if self.text else tuple(texts)
        for field in fields:
            if not _is_text(self.feature(field, 'text')):
                raise UserError(f'data.source: feature {field!r} of {self.dataset} is not text')
        return fields


def _is_text(feature: Any) -> bool:
    return getattr(feature, 'shape', None) == () and feature.np_dtype in (object, str)
