"""Compiled programs that runs share, and which configs they are the same of."""

import functools
import json
from collections.abc import Callable, Hashable
from typing import Any

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.specs import bind
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.optimizers import numbers_of
from bigmodel.training.schedules import SCHEDULES

# Keys of which a program depends on no value: it is given it, or knows nothing of it.
GIVEN = (
    'name',
    'seed',
    'num_steps',
    'stop_early',
    'log_every',
    'check_finite',
    'sample',
    'data.cache_dir',
    'data.workers',
    'optimizer.learning_rate',
    'optimizer.weight_decay',
    'optimizer.clip_norm',
    'checkpoint.every',
    'checkpoint.keep',
    'checkpoint.keep_every',
    'checkpoint.best',
)
GIVEN_TO_EVALUATIONS = ('every', 'batches', 'scores', 'generate_rows', 'max_tokens')


class Programs:
    """What was compiled for a run, which others of the same program use again."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first called for `name`."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def made(self, name: Hashable) -> Any:
        """What is there for `name`, or None."""
        return self._made.get(name)


def program_of(config: ConfigDict) -> str:
    """Equal for resolved configs of which all programs are the same.

    They may be the same for others too: what only looks different is compiled again.
    """
    keys = dict(config_lib.flatten(config_lib.to_dict(config)))
    for key in GIVEN:
        del keys[key]
    for name in config.evals:
        for key in GIVEN_TO_EVALUATIONS:
            del keys[f'evals.{name}.{key}']
    optimizer = config.optimizer
    keys['optimizer.name'] = _static(bind(OPTIMIZERS, optimizer.name, 'optimizer.name', axes=None))
    keys['schedule'] = _static(
        bind(SCHEDULES, config.schedule, 'schedule', step=None, num_steps=None)
    )
    keys['optimizer.ema'] = bool(optimizer.ema)
    return json.dumps(keys, sort_keys=True)


def _static(part: functools.partial) -> str:
    """The name of a part, and its arguments that are no numbers of the program's inputs."""
    static, _ = numbers_of(part)
    return f'{part.func.__name__}{sorted(static.keywords.items())}'
