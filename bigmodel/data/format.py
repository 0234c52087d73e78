"""What a format is: it makes documents of the fields of an example.

A document is tokens, each with a mark that says what it is for (where the format has marks), and
may have a label. Fields are named as the source has them; 'a.b' is field b of field a.
"""

from math import isfinite
from typing import Any, NamedTuple

from bigmodel.data.fields import lookup
from bigmodel.data.source import Source
from bigmodel.errors import UserError


class Piece(NamedTuple):
    """Text whose tokens have one mark: 0 is context, others are a task's to read.

    In a `special` piece names of the tokenizer's special tokens stand for those.
    """

    text: str
    mark: int = 0
    special: bool = False


Part = tuple[Piece, ...]


class Document(NamedTuple):
    """`[bos] part [eos] part [eos] …`, with whichever specials the tokenizer has."""

    parts: tuple[Part, ...]
    label: float | int = 0


class Row:
    """An example of a source, with messages that say where it is."""

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index, self._fields = source, index, source[index]

    def get(self, field: str) -> Any:
        """The value of a field."""
        return lookup(self._fields, field, self.source.place(self.index))

    def text(self, field: str) -> str:
        """A field that is a string."""
        value = self.get(field)
        if not isinstance(value, str):
            raise self.wrong(f'field {field!r} is not a string')
        return value

    def some_text(self, field: str) -> str:
        """A string that is not empty."""
        value = self.text(field)
        if not value.strip():
            raise self.wrong(f'field {field!r} is empty')
        return value

    def items(self, field: str) -> list[Any]:
        """A field that is a list."""
        value = self.get(field)
        if not isinstance(value, list):
            raise self.wrong(f'field {field!r} is not a list')
        return value

    def number(self, field: str) -> float:
        """A field that is a number."""
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self.wrong(f'field {field!r} is not a number: {value!r}')
        return float(value)

    def label(self, field: str, value: Any = None, classes: tuple[str, ...] = ()) -> int:
        """The number of the class in a field (or of `value`, one of several there), of `classes` or
        those of the source.
        """
        value = self.get(field) if value is None else value
        names = classes or self.source.class_names(field)
        number = names.index(value) if isinstance(value, str) and value in names else value
        if isinstance(number, str) or not 0 <= number < len(names):
            raise self.wrong(
                f'label {value!r} is outside 0 to {len(names) - 1} (this split may be unlabelled)'
            )
        return int(number)

    def wrong(self, what: str) -> UserError:
        """An error about this example."""
        return UserError(f'{self.source.place(self.index)}: {what}')


class Format:
    """Base of all formats: `group` documents for each example.

    `teaches` names what a task can learn beside the text (`Task.learns`), `marked` says that tokens
    have marks, `first_marked` that only the first token of a piece has one, `scored` that labels
    are numbers and not classes.
    """

    teaches = ''
    group = 1
    first_marked = False
    marked = False
    scored = False

    def label_names(self, source: Source) -> tuple[str, ...]:
        """The names of the classes; () where documents have none."""
        return ()

    def __call__(self, row: Row) -> tuple[Document, ...]:
        """The documents of an example."""
        raise NotImplementedError

    def opening(self, prompt: str) -> tuple[Part, ...]:
        """How a document begins that goes on from a prompt; all parts but the last one end."""
        return ((Piece(prompt),),)
