"""Local JSONL files: each line is an example."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bigmodel.data import files
from bigmodel.data.fields import Field, lookup
from bigmodel.data.order import mix
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS, share_out_hashes
from bigmodel.data.text_source import require_split
from bigmodel.errors import UserError


class Lines(NamedTuple):
    """Where documents are: file number, 1-based line number, first byte and size of each."""

    file: np.ndarray
    number: np.ndarray
    start: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True)
class JsonlSource(Source):
    """The lines of the files of `path`, each a JSON object; classes are strings or numbers.

    With '{split}' in the path, each split has its own files; otherwise `validation` and `test` are
    shares of the lines, by a hash of their number. Blank lines are skipped.
    """

    split: str
    path: str
    validation: float = 0.1
    test: float = 0.0

    name = 'jsonl'

    def __post_init__(self) -> None:
        require_split(self.name, self.path, self.split, self.validation, self.test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' contents, their names and the shares."""
        salt = f'jsonl {self.validation} {self.test}'
        return files.content_hash(self.path, salt)

    def quick_key(self) -> str:
        """From the files' sizes and times."""
        return files.quick_key(self.path)

    @functools.lru_cache(maxsize=1)  # noqa: B019  (a source is small, and there are few)
    def class_names(self, field: str) -> tuple[str, ...]:
        """The labels of all splits: sorted strings, or the class numbers up to the largest."""
        found: dict[Any, str] = {}  # label -> where it was first seen
        for path in files.find_all(self.path):
            for number, _, line in _lines(path):
                where = f'{path}:{number}'
                whole = Field(where, field, lookup(_object(where, line), field, where))
                for label in whole.each():
                    if label is whole or label.value is not None:  # a word may have no class
                        found.setdefault(label.class_key(), where)
        return _names(found)

    def __len__(self) -> int:
        return len(self._index.file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, _, start, size = (int(column[index]) for column in self._index)
        with open(self._files[file], 'rb') as lines:
            lines.seek(start)
            return _object(self.place(index), lines.read(size))

    def place(self, index: int) -> str:
        """File and line."""
        return f'{self._files[int(self._index.file[index])]}:{int(self._index.number[index])}'

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


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode('utf-8'))
    except UnicodeDecodeError as e:
        raise files.not_utf8(where, e) from e
    except json.JSONDecodeError as e:
        raise UserError(f'{where}: not JSON: {e.msg} at column {e.colno}') from e
    if not isinstance(row, dict):
        raise UserError(f'{where}: a line must be a JSON object such as {{"text": "..."}}')
    return row


def _names(found: dict[Any, str]) -> tuple[str, ...]:
    if len({type(label) for label in found}) > 1:
        pair = [next(w for x, w in found.items() if type(x) is kind) for kind in (int, str)]
        raise UserError(f'labels are integers at {pair[0]} and strings at {pair[1]}; use one')
    if all(isinstance(label, int) for label in found):
        return tuple(str(i) for i in range(max(found) + 1))
    return tuple(sorted(found))
