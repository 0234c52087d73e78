"""One label for each row: supervised fine-tuning."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from bigmodel.metrics import Metrics
from bigmodel.specs import SHARE
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Task


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Predicts a row's label; rows with a negative label do not count.

    Metrics: `loss` (nats a row, smoothed), `nll` (nats a row), `accuracy`.
    """

    label_smoothing: Annotated[float, SHARE] = 0.0
    labelled = True

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        label = batch['label']
        weights = (label >= 0).astype(jnp.float32)
        if 'valid' in batch:
            weights *= batch['valid']
        logits_BC = model(batch['tokens'], batch['positions'], batch['segments'], dropout_key)
        label = jnp.maximum(label, 0)
        each = cross_entropy(logits_BC, label, self.label_smoothing)
        return Predictions(*each, weights).metrics()
