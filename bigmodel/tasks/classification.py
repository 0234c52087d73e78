"""One label for each row: supervised fine-tuning."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import SHARE
from bigmodel.tasks.losses import cross_entropy
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
        loss, nll, correct = cross_entropy(logits_BC, label, self.label_smoothing)
        return {
            'loss': Mean.of(loss, weights),
            'nll': Mean.of(nll, weights),
            'accuracy': Mean.of(correct.astype(jnp.float32), weights),
        }
