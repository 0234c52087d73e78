"""Initialisation: a function `(role, fan_in) -> std` of the normal distribution of a weight.

Roles: `embed` (token and position tables), `linear`, `residual` (the projection that ends a branch
and is added to the residual stream), `head` (an untied output projection; classifiers start at 0).
Biases start at 0 and norm scales at 1.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

from bigmodel.specs import NOT_NEGATIVE

Init = Callable[[str, int], float]


@dataclasses.dataclass(frozen=True)
class GPT2:
    """std 0.02, for residual projections divided by √(2·depth) (Radford et al. 2019, §2.3)."""

    depth: int
    std: Annotated[float, NOT_NEGATIVE] = 0.02

    def __call__(self, role: str, fan_in: int) -> float:
        return self.std / math.sqrt(2 * self.depth) if role == 'residual' else self.std


@dataclasses.dataclass(frozen=True)
class FanIn:
    """std `scale`/√fan_in keeps the variance of activations (LeCun et al. 1998, §4.6).

    Residual projections are divided by √(2·depth); tables use `embed`, which is independent of the
    width.
    """

    depth: int
    scale: Annotated[float, NOT_NEGATIVE] = 1.0
    embed: Annotated[float, NOT_NEGATIVE] = 0.02

    def __call__(self, role: str, fan_in: int) -> float:
        if role == 'embed':
            return self.embed
        std = self.scale / math.sqrt(fan_in)
        return std / math.sqrt(2 * self.depth) if role == 'residual' else std


def fan_in(role: str, fan_in: int) -> float:
    """The default of a layer that is used on its own: 1/√fan_in for every role."""
    return 1 / math.sqrt(fan_in)


INITS = {'gpt2': GPT2, 'fan_in': FanIn}
