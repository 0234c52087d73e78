"""What a task is."""

from collections.abc import Mapping
from typing import Protocol

import jax
from jaxtyping import Array

from bigmodel.metrics import Metrics

Batch = Mapping[str, Array]


class ModelFn(Protocol):
    """The model with its parameters bound."""

    def __call__(
        self,
        tokens: Array,
        positions: Array | None = None,
        segments: Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Array:
        """The head's outputs."""


class Task(Protocol):
    """Turns a batch into metrics, one of which, 'loss', is minimised.

    `extra_tokens` is how many tokens past the sequence length a row holds (and shares with the
    next row); `labelled` says whether rows need a label.
    """

    extra_tokens: int
    labelled: bool

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        """Metrics of `batch`; dropout is on exactly when `dropout_key` is given."""
