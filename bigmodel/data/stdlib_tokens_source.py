"""Words with classes that every machine has: `datasets/stdlib_tokens.py`."""

import dataclasses
import functools
import hashlib
from typing import Any

from bigmodel.data.datasets import stdlib_files, stdlib_tokens
from bigmodel.data.source import Source
from bigmodel.data.splits import check_split
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class PystdlibTokens(Source):
    """The running Python's standard library, a file an example: its words (`tokens`) and the
    lexical class of each (`tags`), as Python's own `tokenize` and `keyword` have them.

    White space is kept as words of no class, so `data.format` is tags(join="").
    """

    split: str

    name = 'pystdlib_tokens'

    def __post_init__(self) -> None:
        check_split(self.split)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files themselves, which are split as those of `pystdlib`."""
        files = stdlib_files.fingerprint(stdlib_files.documents())
        return hashlib.sha256(f'{stdlib_tokens.VERSION} {files}'.encode()).hexdigest()

    def quick_key(self) -> str:
        """From the version of Python and the sizes and times of its files."""
        return f'{stdlib_tokens.VERSION} {stdlib_files.quick_key()}'

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = stdlib_tokens.words(self._files[index].text)
        return {'tokens': [word.text for word in found], 'tags': [word.kind for word in found]}

    def class_names(self, field: str) -> tuple[str, ...]:
        """The lexical classes, which are in `tags`."""
        if field != 'tags':
            raise UserError(f'data.format: pystdlib_tokens has classes in tags, not in {field!r}')
        return stdlib_tokens.CLASSES

    @functools.cached_property
    def _files(self) -> list[stdlib_files.Document]:
        documents = stdlib_files.documents()
        splits = stdlib_files.split_of(documents)
        return [
            document
            for document, split in zip(documents, splits, strict=True)
            if split == self.split and document.label != stdlib_files.REFERENCE
        ]

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
