"""Instructions that every machine has: `datasets/stdlib_summaries.py`."""

import dataclasses
import functools
import hashlib
import zlib
from typing import Annotated, Any

from bigmodel.data.datasets import stdlib_files, stdlib_summaries
from bigmodel.data.source import Source
from bigmodel.data.splits import check_split
from bigmodel.specs import POSITIVE

OPTIONS = 4  # of a choice
BELONGS = ('no', 'yes')


@dataclasses.dataclass(frozen=True)
class PystdlibSummaries(Source):
    """Functions of the running Python's standard library (`prompt`), each with the first line of
    its docstring (`response`).

    Those of more than `longest` characters, both together, are left out. `lines` is how many lines
    the function has. For tasks that compare: `other` is the first line of another function, and
    `options` has the right one at `label`, with three others; `candidate` is the right one where
    `belongs` is 'yes', which is about half of the functions, and else `other`. The others are those
    that come next in the split, mostly of the same file; nobody judged them.
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

    def class_names(self, field: str) -> tuple[str, ...]:
        """Those of `belongs`; UserError for any other field."""
        return BELONGS if field == 'belongs' else super().class_names(field)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        function, summary = self._examples[index]
        others = self._others(index)
        belongs, label = divmod(zlib.crc32(function.encode()) % (2 * OPTIONS), OPTIONS)
        return {
            'prompt': function,
            'response': summary,
            'other': others[0],
            'options': [*others[:label], summary, *others[label:]],
            'label': label,
            'candidate': summary if belongs else others[0],
            'belongs': BELONGS[belongs],
            'lines': function.count('\n') + 1,
        }

    def _others(self, index: int) -> list[str]:
        """The summaries of the next functions that have other ones."""
        found = [self._examples[index].summary]
        for step in range(1, len(self._examples)):
            other = self._examples[(index + step) % len(self._examples)].summary
            found += [other] if other not in found else []
            if len(found) == OPTIONS:
                break
        return found[1:]

    @functools.cached_property
    def _examples(self) -> list[stdlib_summaries.Summary]:
        found = stdlib_summaries.summaries()[self.split]
        return [e for e in found if len(e.function) + len(e.summary) <= self.longest]

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the examples

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
