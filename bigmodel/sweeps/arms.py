"""What a sweep file says: arms, which are plain dicts of config keys, and what is asked of them.

`sweep()` beside `get_config` returns a `Sweep`. Arms come from `grid`, `zipped`, `sample` and
literal dicts, put together by `chain` and `cross`; the key 'name' names an arm.
"""

import dataclasses
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel.errors import UserError
from bigmodel.sweeps.spaces import Choice, Numbers, Space, Whole

Arm = Mapping[str, Any]
Arms = tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Search:
    """So many arms with values of `space`, each proposed by `sampler` (sweeps/search.py) from what
    those before it came to.
    """

    trials: int = 0
    space: Mapping[str, Space] = dataclasses.field(default_factory=dict)
    sampler: str = 'tpe'


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Arms, each run once a seed, and how they are compared. A search adds arms as it goes.

    `baseline` is the name of the arm that the others are compared with ('': the first). `metric` is
    'EVALUATION/METRIC'; `better` is 'min' or 'max' ('': as the metric's name says). `budget` is
    what all arms have alike (sweeps/budgets.py), `prune` when a run that loses is ended
    (sweeps/pruning.py), which the baseline's never is.
    """

    arms: Sequence[Arm] = ({'name': 'base'},)
    seeds: Sequence[int] = (0,)
    baseline: str = ''
    metric: str = 'validation/loss'
    better: str = ''
    budget: str = 'config'
    prune: str = 'none'
    search: Search = dataclasses.field(default_factory=Search)


def grid(factors: Mapping[str, Sequence[Any]]) -> Arms:
    """Every combination of the values of every key; the last key varies fastest."""
    _check_values(factors)
    combinations = itertools.product(*factors.values())
    return tuple(dict(zip(factors, values, strict=True)) for values in combinations)


def zipped(columns: Mapping[str, Sequence[Any]]) -> Arms:
    """The first value of every key, then the second of every key, and so on."""
    _check_values(columns)
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f'zipped: all keys need as many values: {_listed(lengths)}')
    rows = zip(*columns.values(), strict=True)
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)


def chain(*groups: Sequence[Arm] | Arm) -> Arms:
    """The arms of every group, one group after the other; a dict is a group of one arm."""
    listed = ([group] if isinstance(group, Mapping) else group for group in groups)
    return tuple(dict(arm) for group in listed for arm in group)


def cross(*groups: Sequence[Arm]) -> Arms:
    """Every arm of every group with every arm of the others; names are joined."""
    found = []
    for arms in itertools.product(*groups):
        keys = [key for arm in arms for key in arm if key != 'name']
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise UserError(f'cross: two groups set {twice!r}; leave it to one of them')
        names = [str(arm['name']) for arm in arms if 'name' in arm]
        merged = {key: value for arm in arms for key, value in arm.items()}
        found.append(merged | ({'name': ','.join(names)} if names else {}))
    return tuple(found)


def sample(count: int, space: Mapping[str, Space], seed: int = 0) -> Arms:
    """`count` arms with random values: `{'optimizer.learning_rate': log_uniform(1e-4, 1e-2)}`.

    The same seed gives the same arms, and more of them begin with the same ones.
    """
    if count < 1:
        raise UserError(f'sample: count={count} must be at least 1')
    draw = random.Random(seed)
    return tuple({key: values.draw(draw) for key, values in space.items()} for _ in range(count))


def uniform(low: float | int, high: float | int) -> Space:
    """A number between `low` and `high`, to three digits."""
    return Numbers(low, high)


def log_uniform(low: float | int, high: float | int) -> Space:
    """A number whose logarithm is uniform, to three digits."""
    return Numbers(low, high, log=True)


def integer(low: int, high: int) -> Space:
    """A whole number from `low` to `high`, both included."""
    return Whole(low, high)


def choice(*values: Any) -> Space:
    """One of the values."""
    return Choice(values)


def _check_values(factors: Mapping[str, Sequence[Any]]) -> None:
    for key, values in factors.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise UserError(f'{key}: give a tuple of values, not {values!r}')
        if not values:
            raise UserError(f'{key}: there are no values')


def _listed(lengths: Mapping[str, int]) -> str:
    return ', '.join(f'{key} has {n}' for key, n in lengths.items())
