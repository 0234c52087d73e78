"""Local JSONL files: each line is a document, with an optional label."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bigmodel.data import files
from bigmodel.data.order import mix
from bigmodel.data.plain_tokenizers import utf8
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS, share_out_hashes
from bigmodel.data.text_source import require_split
from bigmodel.errors import UserError, nearest

MAX_LABELS = 1 << 16


class Lines(NamedTuple):
    """Where documents are: file number, 1-based line number, first byte and size of each."""

    file: np.ndarray
    number: np.ndarray
    start: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True)
class JsonlSource(Source):
    """The lines of the files of `path`: fields `text`, and `label` (a string or a class number).

    With '{split}' in the path, each split has its own files; otherwise `validation` and `test` are
    shares of the lines, by a hash of their number. Blank lines are skipped.
    """

    split: str
    path: str
    text: str = 'text'
    label: str = ''
    validation: float = 0.1
    test: float = 0.0

    name = 'jsonl'

    def __post_init__(self) -> None:
        require_split(self.name, self.path, self.split, self.validation, self.test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' contents, their names and this source's arguments."""
        salt = f'jsonl {self.text} {self.label} {self.validation} {self.test}'
        return files.content_hash(self.path, salt)

    def quick_key(self) -> str:
        """From the files' sizes and times."""
        return files.quick_key(self.path)

    @functools.cached_property
    def label_names(self) -> tuple[str, ...]:
        """The labels of all splits: sorted strings, or the class numbers up to the largest."""
        if not self.label:
            return ()
        found: dict[Any, str] = {}  # label -> where it was first seen
        for path in files.find_all(self.path):
            for number, _, line in _lines(path):
                found.setdefault(self._label(path, number, line), f'{path}:{number}')
        return _names(found)

    def __len__(self) -> int:
        return len(self._index.file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where = [int(column[index]) for column in self._index]
        path, number = self._files[where[0]], where[1]
        with open(path, 'rb') as file:
            file.seek(where[2])
            line = file.read(where[3])
        text = _field(path, number, line, self.text)
        if not isinstance(text, str):
            raise UserError(f'{path}:{number}: field {self.text!r} is not a string')
        _check_unicode(path, number, text)
        return {'text': text} | ({'label': self._class(path, number, line)} if self.label else {})

    @functools.cached_property
    def _files(self) -> list[pathlib.Path]:
        return files.find(self.path, self.split)

    @functools.cached_property
    def _index(self) -> Lines:
        found = [
            (i, number, start, len(line))
            for i, path in enumerate(self._files)
            for number, start, line in _lines(path)
        ]
        columns = np.array(found, np.int64).reshape(-1, 4).T
        if files.BY_SPLIT in self.path:
            return Lines(*columns)
        shares = {'validation': self.validation, 'test': self.test}
        codes = share_out_hashes(mix(np.arange(len(found))), shares)
        return Lines(*columns[:, codes == SPLITS.index(self.split)])

    @functools.cached_property
    def _class_of(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.label_names)}

    def _class(self, path: pathlib.Path, number: int, line: bytes) -> int:
        return self._class_of[str(self._label(path, number, line))]

    def _label(self, path: pathlib.Path, number: int, line: bytes) -> int | str:
        label = _field(path, number, line, self.label)
        if type(label) not in (int, str):
            raise UserError(f'{path}:{number}: label {label!r} is neither a string nor an integer')
        if isinstance(label, int) and not 0 <= label < MAX_LABELS:
            raise UserError(
                f'{path}:{number}: label {label} is not a class number (0 to {MAX_LABELS - 1})'
            )
        return label


def _lines(path: pathlib.Path) -> Iterator[tuple[int, int, bytes]]:
    """Yields (1-based number, first byte, line) of the lines that are not blank."""
    start, some = 0, False
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                some = True
                yield number, start, line
            start += len(line)
    if not some:
        raise UserError(f'{path} is empty')


def _field(path: pathlib.Path, number: int, line: bytes, field: str) -> Any:
    try:
        row = json.loads(line.decode('utf-8'))
    except UnicodeDecodeError as e:
        raise files.not_utf8(f'{path}:{number}', e) from e
    except json.JSONDecodeError as e:
        raise UserError(f'{path}:{number}: not JSON: {e.msg} at column {e.colno}') from e
    if not isinstance(row, dict):
        raise UserError(f'{path}:{number}: a line must be a JSON object such as {{"text": "..."}}')
    if field not in row:
        raise UserError(
            f'{path}:{number}: no field {field!r}.{nearest(field, row)} '
            f'Fields there: {", ".join(row) or "none"}'
        )
    return row[field]


def _check_unicode(path: pathlib.Path, number: int, text: str) -> None:
    try:
        utf8(text)
    except UserError as e:
        raise UserError(f'{path}:{number}: {e}') from e


def _names(found: dict[Any, str]) -> tuple[str, ...]:
    if len({type(label) for label in found}) > 1:
        pair = [next(w for x, w in found.items() if type(x) is kind) for kind in (int, str)]
        raise UserError(f'labels are integers at {pair[0]} and strings at {pair[1]}; use one')
    if all(isinstance(label, int) for label in found):
        return tuple(str(i) for i in range(max(found) + 1))
    return tuple(sorted(found))
