"""What a format is: it makes documents of the fields of an example.

A document is tokens, each with a mark that says what it is for (where the format has marks), and
may have a label. Fields are named as the source has them; 'a.b' is field b of field a.
"""

from typing import NamedTuple

from bigmodel.data.fields import Field, lookup
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
    """An example of a source, whose fields say where they are."""

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index, self._fields = source, index, source[index]

    def get(self, field: str) -> Field:
        """A field, to be read as what it must be."""
        place = self.source.place(self.index)
        return Field(place, field, lookup(self._fields, field, place))

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

    def references(self, row: Row) -> tuple[str, ...]:
        """The texts of which each is a right answer to an example; () where there is no answer to
        give, and ('',) where no answer is the right one.
        """
        return ()

    def opening(self, prompt: str) -> tuple[Part, ...]:
        """How a document begins that goes on from a prompt; all parts but the last one end."""
        return ((Piece(prompt),),)
