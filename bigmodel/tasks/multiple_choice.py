"""Which of several texts is right: answers to a question, endings of a story."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from bigmodel.metrics import Metrics
from bigmodel.specs import SHARE, Range
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Task, documents_of, model_inputs

AT_LEAST_TWO = Range(lambda x: x >= 2, 'at least 2')


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Task):
    """Scores each of `group` documents by one number; the softmax over them is to choose the right
    one (Radford et al. 2018, §3.3; Devlin et al. 2018, §4.4, SWAG).

    A shift of all scores changes nothing, so the head's bias has no gradient. Metrics, over
    examples: `loss` (nats, smoothed), `nll` (nats), `accuracy`.
    """

    group: Annotated[int, AT_LEAST_TWO] = 4
    label_smoothing: Annotated[float, SHARE] = 0.0
    labelled, learns, predicts = True, 'choice', 'number'

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        label_N = batch['label']
        scores = model(*model_inputs(documents_of(batch)), dropout_key)
        scores_NG = scores.reshape(len(label_N), self.group)
        each = cross_entropy(scores_NG, label_N, self.label_smoothing)
        weights = batch.get('valid', jnp.ones(len(label_N), jnp.float32))
        return Predictions(*each, weights).metrics()
