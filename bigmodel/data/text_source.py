"""Local text files: each is a document."""

import dataclasses
import functools
import pathlib
from typing import Any

from bigmodel.data import files
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS, check_shares, share_out
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class TextSource(Source):
    """The files of `path`, one document each.

    With '{split}' in the path, each split has its own files. Otherwise `validation` and `test` are
    shares: of the files, by a hash of their names; of the characters when there is only one file,
    whose end they are.
    """

    split: str
    path: str
    validation: float = 0.1
    test: float = 0.0

    name = 'text'

    def __post_init__(self) -> None:
        require_split(self.name, self.path, self.split, self.validation, self.test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' contents, their names and the shares."""
        salt = f'text {self.validation} {self.test}'
        return files.content_hash(self.path, salt)

    def quick_key(self) -> str:
        """From the files' sizes and times."""
        return files.quick_key(self.path)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._documents[index]
        text = files.read(path)
        return {'text': self._part(path, text) if self._single else text}

    @functools.cached_property
    def _all(self) -> list[pathlib.Path]:
        return files.find(self.path, self.split)

    @property
    def _single(self) -> bool:
        return len(self._all) == 1 and files.BY_SPLIT not in self.path

    @functools.cached_property
    def _documents(self) -> list[pathlib.Path]:
        if self._single or files.BY_SPLIT in self.path:
            return self._all
        shares = {'validation': self.validation, 'test': self.test}
        splits = share_out(files.relative_names(self._all), shares)
        return [f for f, s in zip(self._all, splits, strict=True) if s == self.split]

    def _part(self, path: pathlib.Path, text: str) -> str:
        ends = [1 - self.validation - self.test, 1 - self.test, 1.0]
        cuts = [0, *(int(len(text) * end) for end in ends)]
        place = SPLITS.index(self.split)
        part = text[cuts[place] : cuts[place + 1]]
        if not part:
            raise UserError(f'{path}: its {len(text)} characters leave none for {self.split!r}')
        return part


def require_split(source: str, path: str, split: str, validation: float, test: float) -> None:
    """Raises UserError when the shares are no shares, or give nothing to `split`."""
    shares = check_shares(validation, test)
    files.find(path, split)
    there = ['train', *(s for s, share in shares.items() if share)]
    if files.BY_SPLIT not in path and split not in there:
        fix = f"Set its share, as in '{source}({split}=0.1)'" if split in SPLITS else ''
        raise files.missing_split(f'data.source={source!r}', split, there, fix)
