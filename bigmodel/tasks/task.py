"""What a task is."""

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array

from bigmodel.metrics import Metrics

Batch = Mapping[str, Array]
# The model with its parameters bound: (tokens, positions, segments, dropout_key) -> outputs.
ModelFn = Callable[..., Array]


class Task:
    """Turns a batch into metrics, one of which, 'loss', is minimised.

    `extra_tokens` is how many tokens past the sequence length a row holds (and shares with the
    next row); `labelled` says whether rows need a label.
    """

    extra_tokens = 0
    labelled = False
    causal = False  # whether every next token is predicted, so the model must not see later ones

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        """Metrics of `batch`; dropout is on exactly when `dropout_key` is given."""
        raise NotImplementedError
