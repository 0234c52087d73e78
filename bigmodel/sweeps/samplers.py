"""How a search proposes values: `Search(sampler='tpe(seed=0)')`."""

import dataclasses
import random
from typing import Annotated, Any

from bigmodel.specs import POSITIVE, make
from bigmodel.sweeps.optional import optuna


@dataclasses.dataclass(frozen=True)
class Random:
    """Values at random (Bergstra and Bengio 2012)."""

    seed: int = 0

    def sampler(self, number: int) -> Any:
        """Of optuna, for the proposal of this number.

        It is seeded for each one, so that workers do not all propose the same, and a search that
        goes on proposes what one that was not stopped would have.
        """
        return optuna('search').samplers.RandomSampler(seed=self._seed_of(number))

    def _seed_of(self, number: int) -> int:
        return random.Random(f'{self.seed}/{number}').getrandbits(32)


@dataclasses.dataclass(frozen=True)
class Tpe(Random):
    """Values that were more frequent among good runs than among others, after `startup` at random
    (the tree-structured Parzen estimator, Bergstra et al. 2011).
    """

    startup: Annotated[int, POSITIVE] = 10

    def sampler(self, number: int) -> Any:
        seed = self._seed_of(number)
        samplers = optuna('search').samplers
        return samplers.TPESampler(seed=seed, n_startup_trials=self.startup)


SAMPLERS = {'random': Random, 'tpe': Tpe}


def build_sampler(text: str) -> Random:
    """'tpe(seed=0)', 'random'; raises UserError for an unknown one, and without optuna."""
    optuna('search')
    return make(SAMPLERS, text, 'sampler')
