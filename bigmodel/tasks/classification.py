"""One label for each row: supervised fine-tuning."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from bigmodel.data.draws import Draws
from bigmodel.metrics import Metrics
from bigmodel.specs import NOT_NEGATIVE, SHARE
from bigmodel.tasks.augment import flipped, shifted
from bigmodel.tasks.losses import Predictions, confidence, cross_entropy
from bigmodel.tasks.task import KINDS, Batch, Judged, ModelFn, Rows, RowTask, model_inputs


@dataclasses.dataclass(frozen=True)
class Classification(RowTask):
    """Predicts a row's label; rows with a negative label do not count.

    Images of training are moved by up to `shift` pixels and, with `flip`, mirrored at random.
    Metrics: `loss` (nats a row, smoothed), `nll` (nats a row), `accuracy`.
    """

    label_smoothing: Annotated[float, SHARE] = 0.0
    shift: Annotated[int, NOT_NEGATIVE] = 0
    flip: bool = False
    labelled, learns, predicts = True, 'class', 'class'
    skips_unlabelled = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ('image',) if self.shift or self.flip else tuple(KINDS)

    def augment(self, rows: Rows, draws: Draws) -> Rows:
        if self.shift:
            rows = rows | {'image': shifted(rows['image'], draws, self.shift)}
        if self.flip:
            rows = rows | {'image': flipped(rows['image'], draws)}
        return rows

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        inputs = model_inputs(batch)
        # Rows without labels are predicted all the same.
        label = batch.get('label', jnp.full(len(inputs[0]), -1))
        weights = (label >= 0).astype(jnp.float32)
        if 'valid' in batch:
            weights *= batch['valid']
        logits_BC = model(*inputs, dropout_key)
        label = jnp.maximum(label, 0)
        each = cross_entropy(logits_BC, label, self.label_smoothing)
        rows = {
            'prediction': jnp.argmax(logits_BC, -1),
            'target': label,
            'weight': weights,
            'confidence': confidence(logits_BC),
        }
        return Predictions(*each, weights).metrics(), rows
