"""Instructions that every machine has: `datasets/stdlib_summaries.py`."""

import dataclasses
import functools
import hashlib
from typing import Annotated, Any

from bigmodel.data.datasets import stdlib_files, stdlib_summaries
from bigmodel.data.source import Source
from bigmodel.data.splits import check_split
from bigmodel.specs import POSITIVE


@dataclasses.dataclass(frozen=True)
class PystdlibSummaries(Source):
    """Functions of the running Python's standard library (`prompt`), each with the first line of
    its docstring (`response`).

    Those of more than `longest` characters, both together, are left out.
    """

    split: str
    longest: Annotated[int, POSITIVE] = 400

    name = 'pystdlib_summaries'

    def __post_init__(self) -> None:
        check_split(self.split)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the examples of all splits."""
        digest = hashlib.sha256(f'{stdlib_summaries.VERSION} {self.longest}'.encode())
        digest.update(repr(stdlib_summaries.summaries()).encode())
        return digest.hexdigest()

    def quick_key(self) -> str:
        """From the version of Python and the sizes and times of its files."""
        return f'{stdlib_summaries.VERSION} {self.longest} {stdlib_files.quick_key()}'

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        function, summary = self._examples[index]
        return {'prompt': function, 'response': summary}

    @functools.cached_property
    def _examples(self) -> list[stdlib_summaries.Summary]:
        found = stdlib_summaries.summaries()[self.split]
        return [e for e in found if len(e.function) + len(e.summary) <= self.longest]

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the examples

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
