"""Fields of an example by name, and what they must hold: 'a.b' is field b of field a."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from bigmodel.errors import UserError, nearest

MAX_CLASSES = 1 << 16
MOST_SHOWN = 80  # characters of a value


class Field(NamedTuple):
    """A value with its name and the place of its example, which every mistake tells."""

    place: str
    name: str
    value: Any

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            raise self.wrong('a string')
        return self.value

    def some_text(self) -> str:
        """A string with more than space in it."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.wrong('a string that is not empty')
        return self.value

    def items(self) -> 'list[Field]':
        """The entries of a list, named 'field[0]', 'field[1]', …"""
        if not isinstance(self.value, list):
            raise self.wrong('a list')
        return [Field(self.place, f'{self.name}[{i}]', x) for i, x in enumerate(self.value)]

    def each(self) -> 'list[Field]':
        """The entries of a list; what is no list is its own only entry."""
        return self.items() if isinstance(self.value, list) else [self]

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float) or not isfinite(self.value):
            raise self.wrong('a finite number')
        return float(self.value)

    def integer(self) -> int:
        """A whole number, at least 0."""
        if type(self.value) is not int or self.value < 0:
            raise self.wrong('a whole number, at least 0')
        return self.value

    def class_key(self) -> int | str:
        """What says a class, of whatever classes: its name or its number."""
        if type(self.value) is str and self.value.strip():
            return self.value
        if type(self.value) is int and 0 <= self.value < MAX_CLASSES:
            return self.value
        raise self.wrong(f'the name of a class or its number (0 to {MAX_CLASSES - 1})')

    def label(self, names: Sequence[str]) -> int:
        """The number of the class, of those with these names."""
        if isinstance(self.value, str) and self.value in names:
            return names.index(self.value)
        if type(self.value) is int and 0 <= self.value < len(names):
            return self.value
        raise self.wrong(
            f'a class, which are 0 to {len(names) - 1} or {_listed(names)} (this split may be '
            f'unlabelled)'
        )

    def choice(self, choices: Sequence[str]) -> str:
        """One of some strings."""
        if not isinstance(self.value, str) or self.value not in choices:
            raise self.wrong(f'one of {_listed(choices)}')
        return self.value

    def get(self, name: str) -> 'Field':
        """Field `name` of what must be an object."""
        if not isinstance(self.value, Mapping) or name not in self.value:
            raise self.wrong(f'an object with the field {name!r}')
        return Field(self.place, f'{self.name}.{name}', self.value[name])

    def wrong(self, wanted: str) -> UserError:
        """An error that says where, what is there and what was expected."""
        return UserError(
            f'{self.place}: field {self.name!r} is {_shown(self.value)}, but must be {wanted}'
        )


def lookup(row: Mapping[str, Any], field: str, place: str) -> Any:
    """The value of a field; UserError, which begins with `place`, when there is none."""
    value: Any = row
    for name in field.split('.'):
        if not isinstance(value, Mapping) or name not in value:
            there = sorted(value) if isinstance(value, Mapping) else []
            raise UserError(
                f'{place}: no field {field!r}.{nearest(name, there)} '
                f'Fields there: {", ".join(there) or "none"}'
            )
        value = value[name]
    return value


def check_names(names: Sequence[Any], what: str) -> None:
    """Raises UserError, which begins with `what`, unless all are different strings."""
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f'{what}: {name!r} is no name; write strings that are not empty')
        if name in names[:i]:
            raise UserError(f'{what}: {name!r} is there twice; leave one out')


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f'{text[: MOST_SHOWN - 1]}…'


def _listed(names: Sequence[str]) -> str:
    """The first ones, in words."""
    return ', '.join([*names[:8], *(['…'] if len(names) > 8 else [])])
