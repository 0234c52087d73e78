"""What a source of examples is."""

import abc
from typing import Any

from bigmodel.errors import UserError


class Source(abc.ABC):
    """One split of a data set, an example at a time; cheap to build, picklable.

    An example is a row of fields: strings, numbers, lists and dicts of these. `data.format` says
    what becomes of them.
    """

    name: str
    split: str
    label_field = ''  # where labels are unless the config says so; '': nowhere

    @property
    def text_field(self) -> str:
        """The field of the text, unless the config names one."""
        return 'text'

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content of the whole data set (all splits); may read all of it."""

    @abc.abstractmethod
    def quick_key(self) -> str:
        """Changes whenever `fingerprint` might have: from names, sizes and times only."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of examples in this split."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """The fields of an example."""

    def class_names(self, field: str) -> tuple[str, ...]:
        """The names of the classes in `field`, in order, the same for all splits."""
        raise UserError(f'data.format: {self.name} has no classes, so label={field!r} names none')

    def place(self, index: int) -> str:
        """Where an example is, for messages."""
        return f'{self.name}, split {self.split!r}, example {index}'
