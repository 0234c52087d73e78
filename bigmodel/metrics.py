"""Additive metrics: (total, weight) pairs, summed everywhere and divided once, at the end."""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class Mean:
    """A weighted mean that is still a sum, so packing, padding and accumulation stay exact."""

    total: Any  # float32 scalars; abstract while shapes are computed
    weight: Any

    @classmethod
    def of(cls, values: Float[Array, '*s'], weights: Float[Array, '*s'] | None = None) -> 'Mean':
        """The mean of `values`, each counted `weights` times (once by default)."""
        weights = jnp.ones_like(values) if weights is None else weights
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def __add__(self, other: 'Mean') -> 'Mean':
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self) -> float:
        """The mean as a Python number; NaN when nothing was counted."""
        weight = float(self.weight)
        return float(self.total) / weight if weight else float('nan')


Metrics = dict[str, Mean]


def values(metrics: Metrics) -> dict[str, float]:
    """The means as numbers, of all of which something counted; `loss` is NaN where nothing did."""
    return {k: m.value() for k, m in metrics.items() if k == 'loss' or float(m.weight)}


def add(a: Metrics, b: Metrics) -> Metrics:
    """Adds two metric dicts with the same keys."""
    return {k: a[k] + b[k] for k in a}
