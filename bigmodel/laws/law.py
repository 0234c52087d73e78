"""Loss by parameters and tokens, and which of both are best for a number of FLOPs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from bigmodel.errors import UserError

Range = tuple[float, float]
Number = float | int
Numbers = float | int | Float[np.ndarray, ' n']


@dataclasses.dataclass(frozen=True)
class Law:
    """L(N, D) = E + A/N^α + B/D^β in nats a token (Hoffmann et al. 2022, eq. 2 and 4).

    Training takes `flops_per_weight`·N·D FLOPs: 6 without those of attention's products. `counts`
    is which parameters N counts: 'all' or 'non_embedding'. Ranges are those of the runs that it was
    fitted to.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str  # where the coefficients are from
    params: Range
    tokens: Range
    flops: Range
    counts: str = 'all'
    flops_per_weight: float = 6.0

    def loss(self, params: Numbers, tokens: Numbers) -> Numbers:
        """Of models of so many parameters after so many tokens."""
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """a of N_opt ∝ C^a; that of the tokens is 1 - a."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: Numbers) -> tuple[Numbers, Numbers]:
        """Parameters and tokens of the least loss that `flops` can buy."""
        ratio = self.alpha * self.A / (self.beta * self.B)
        products = flops / self.flops_per_weight
        params = ratio ** (1 / (self.alpha + self.beta)) * products**self.exponent
        return params, products / params

    def outside(self, flops: Number, params: Number, tokens: Number) -> list[str]:
        """What lies outside of the runs that the law was fitted to."""
        checked = {
            'FLOPs': (flops, self.flops),
            'parameters': (params, self.params),
            'tokens': (tokens, self.tokens),
        }
        return [
            f'{value:.3g} {what}: the law was fitted to {low:.3g} to {high:.3g}'
            for what, (value, (low, high)) in checked.items()
            if not low <= value <= high
        ]


# Hoffmann et al.'s runs: 70M to 16B parameters, 5B to 500B tokens (§1), 6e18 to 3e21 FLOPs (§3.2).
_CHINCHILLA: dict[str, Range] = {
    'params': (70e6, 16e9),
    'tokens': (5e9, 500e9),
    'flops': (6e18, 3e21),
}
PUBLISHED = {
    # §D.3 with the digits of its TeX source: the rounded ones mislead (Besiroglu et al. 2024).
    'hoffmann': Law(
        1.6934, 406.4, 410.7, 0.3392, 0.2849, 'Hoffmann et al. 2022, approach 3', **_CHINCHILLA
    ),
    # Of 240 of the same runs, read from a figure of the paper; agrees with its approaches 1 and 2.
    'besiroglu': Law(
        1.8172,
        482.01,
        2085.43,
        0.3478,
        0.3658,
        'Besiroglu et al. 2024, of the runs of Hoffmann et al. 2022',
        **_CHINCHILLA,
    ),
}


def to_json(law: Law) -> dict[str, Any]:
    """As scaling.json holds it."""
    return dataclasses.asdict(law)


def from_json(plain: Mapping[str, Any]) -> Law:
    """The inverse of `to_json`; raises UserError for anything else."""
    names = {field.name for field in dataclasses.fields(Law)}
    try:
        law = Law(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})
        numbers = [law.E, law.A, law.B, law.alpha, law.beta, law.flops_per_weight]
        if not all(math.isfinite(n) and n > 0 for n in numbers):
            raise ValueError('coefficients must be positive')
    except (TypeError, ValueError, AttributeError) as e:
        raise UserError(f'no law can be read from it ({e}); it needs {", ".join(names)}') from e
    return law
