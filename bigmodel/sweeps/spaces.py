"""Where the value of a key may lie: drawn at random by `sample`, proposed in turn by a search."""

import abc
import dataclasses
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel.errors import UserError
from bigmodel.sweeps.optional import optuna


@dataclasses.dataclass(frozen=True)
class Space(abc.ABC):
    """What all kinds have; each has a row of `SPACES`."""

    @abc.abstractmethod
    def draw(self, draw: random.Random) -> Any:
        """A value at random."""

    @abc.abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before a search begins."""

    @abc.abstractmethod
    def distribution(self) -> Any:
        """As optuna has it."""

    def value(self, proposed: Any) -> Any:
        """What an arm gets when optuna proposes this."""
        return proposed

    @abc.abstractmethod
    def read(self, text: str) -> Any:
        """What optuna proposed, from the text of an arm's change."""

    def to_json(self) -> dict[str, Any]:
        """As a plan holds it."""
        kind = next(name for name, part in SPACES.items() if part is type(self))
        return {'kind': kind, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Numbers(Space):
    """A number between `low` and `high`, or one whose logarithm is, to three digits."""

    low: float | int
    high: float | int
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f'no numbers can be drawn between {self.low} and {self.high}')

    def draw(self, draw: random.Random) -> float:
        if self.log:
            return self.value(math.exp(draw.uniform(math.log(self.low), math.log(self.high))))
        return self.value(draw.uniform(self.low, self.high))

    def ends(self) -> tuple[float | int, ...]:
        return (self.low, self.high)

    def distribution(self) -> Any:
        return optuna('search').distributions.FloatDistribution(self.low, self.high, log=self.log)

    def value(self, proposed: float | int) -> float:
        return float(min(max(float(f'{proposed:.3g}'), self.low), self.high))

    def read(self, text: str) -> float:
        return float(text)


@dataclasses.dataclass(frozen=True)
class Whole(Space):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UserError(f'no numbers can be drawn between {self.low} and {self.high}')

    def draw(self, draw: random.Random) -> int:
        return draw.randint(self.low, self.high)

    def ends(self) -> tuple[int, ...]:
        return (self.low, self.high)

    def distribution(self) -> Any:
        return optuna('search').distributions.IntDistribution(self.low, self.high)

    def read(self, text: str) -> int:
        return int(text)


@dataclasses.dataclass(frozen=True)
class Choice(Space):
    """One of the values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError('choice: it needs values')

    def draw(self, draw: random.Random) -> Any:
        return draw.choice(self.values)

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def distribution(self) -> Any:
        return optuna('search').distributions.CategoricalDistribution(self._texts())

    def read(self, text: str) -> str:
        return text

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {'values': self._texts()}

    def _texts(self) -> list[str]:
        """JSON knows no tuples, and optuna compares choices by what JSON makes of them."""
        return [as_text(value) for value in self.values]


SPACES = {'number': Numbers, 'whole': Whole, 'choice': Choice}


def from_json(plain: Mapping[str, Any]) -> Space:
    """The inverse of `to_json`."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items() if k != 'kind'}
    return SPACES[plain['kind']](**fields)


def as_text(value: Any) -> str:
    """A value of the config as a command line has it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str) else repr(value)
