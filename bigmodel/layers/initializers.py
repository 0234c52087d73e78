"""Initialisation: a function `(role, fan_in) -> std` of the normal distribution of a weight.

Roles: `embed` (token and position tables), `linear`, `residual` (the projection that ends a branch
and is added to the residual stream), `head` (an untied output projection; classifiers start at 0).
Biases start at 0 and norm scales at 1. An entry of `INITS` also says how logits and learning rates
scale, so that a parametrisation of the width is one slot.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

from bigmodel.specs import NOT_NEGATIVE, POSITIVE

Init = Callable[[str, int], float]


class Parametrisation:
    """Base of all initialisations; logits and learning rates are left as they are."""

    logit_scale: float = 1.0  # multiplies the head's output
    # (regex, multiplier of the learning rate) over parameter paths, beside `optimizer.rates`.
    rates: tuple[tuple[str, float], ...] = (('.*', 1.0),)

    def __call__(self, role: str, fan_in: int) -> float:
        """The std of a weight in `role` with `fan_in` inputs."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class GPT2(Parametrisation):
    """std 0.02, for residual projections divided by √(2·depth) (Radford et al. 2019, §2.3)."""

    depth: int
    std: Annotated[float, NOT_NEGATIVE] = 0.02

    def __call__(self, role: str, fan_in: int) -> float:
        return self.std / math.sqrt(2 * self.depth) if role == 'residual' else self.std


@dataclasses.dataclass(frozen=True)
class Normal(Parametrisation):
    """The same std for every weight, residual projections too (Devlin et al. 2018; their code also
    redraws what is beyond two std).
    """

    std: Annotated[float, NOT_NEGATIVE] = 0.02

    def __call__(self, role: str, fan_in: int) -> float:
        return self.std


@dataclasses.dataclass(frozen=True)
class FanIn(Parametrisation):
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


@dataclasses.dataclass(frozen=True)
class Mup(FanIn):
    """Maximal update parametrisation for Adam (Yang et al. 2022, "Tensor Programs V", table 8).

    At `base_width` it is `fan_in`; at other widths the learning rate that is best there stays best:
    rates of matrices whose inputs grow are divided by width/base_width, so are logits, and the
    head's std is that of the base width. Widen by more heads, not by wider ones: attention keeps
    1/√d_k.
    """

    width: int = 0
    base_width: Annotated[int, POSITIVE] = 128

    def __call__(self, role: str, fan_in: int) -> float:
        return super().__call__(role, self.base_width if role == 'head' else fan_in)

    @property
    def logit_scale(self) -> float:
        return self.base_width / self.width

    @property
    def rates(self) -> tuple[tuple[str, float], ...]:
        hidden = self.base_width / self.width
        return (
            ('head/transform/weight$', hidden),
            ('(inputs|head)/', 1.0),
            # Their inputs do not grow: taps of a convolution and what makes them, latents, the
            # features of one head.
            ('.*(conv|filter/.*|_up|forget|input)/weight$', 1.0),
            ('.*/weight$', hidden),
            ('.*', 1.0),
        )


def fan_in(role: str, fan_in: int) -> float:
    """The default of a layer that is used on its own: 1/√fan_in for every role."""
    return 1 / math.sqrt(fan_in)


INITS = {'normal': Normal, 'gpt2': GPT2, 'fan_in': FanIn, 'mup': Mup}
