"""What an evaluation found, from which scores are computed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Text(NamedTuple):
    """What a model made of the prompt of a document of the split, and what it should have."""

    document: int
    prediction: str
    target: str


def no_references(document: int) -> tuple[str, ...]:
    """Of data that has none."""
    return ()


@dataclasses.dataclass(frozen=True)
class Results:
    """The means over a split, and what was predicted for each of its rows, in order.

    `rows` are arrays whose first dimension is that of rows: `prediction`, `target` and `weight` (0
    where a row does not count) as the task gives them (`Task.judge`), and `index`, the number of
    the row in the split. `classes` are the names of the classes, `decode` makes text of tokens.
    `texts` are those that were generated, of some documents. Where rows have documents, `rows` also
    has `document`, the number of each row's, and `of_document`, how many rows that one has;
    `references` gives the right texts of a document, where there are several to choose from.
    """

    means: Mapping[str, float]
    rows: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    decode: Callable[[Any], str]
    texts: tuple[Text, ...] = ()
    references: Callable[[int], tuple[str, ...]] = no_references

    def counted(self) -> 'Results':
        """Without the rows that do not count."""
        keep = self.rows['weight'] > 0
        return dataclasses.replace(self, rows={k: v[keep] for k, v in self.rows.items()})
