"""A class for each token: entities, parts of speech."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.metrics import Metrics
from bigmodel.specs import SHARE
from bigmodel.tasks.losses import Predictions, confidence, cross_entropy
from bigmodel.tasks.task import Batch, Judged, ModelFn, Rows, RowTask, model_inputs


@dataclasses.dataclass(frozen=True)
class TokenClassification(RowTask):
    """Predicts the class of each token that has one: of a word's first (Devlin et al. 2018, §5.3),
    or with the format tags(first=False) of all of its tokens.

    A token with mark c + 1 is of class c; what stands between words and what ends a text is of
    none. Metrics, over tokens: `loss` (nats, smoothed), `nll` (nats), `accuracy`.
    """

    label_smoothing: Annotated[float, SHARE] = 0.0
    learns = predicts = 'classes'

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`targets`: the class of each token, −1 where it has none."""
        ends = rows['tokens'] == tokenizer.eos_id  # marked as the word before
        return rows | {'targets': np.where(ends, -1, rows['marks'] - 1).astype(np.int32)}

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        targets = batch['targets']
        weights = (targets >= 0).astype(jnp.float32)
        if 'valid' in batch:
            weights *= batch['valid'][:, None]
        logits_BLC = model(*model_inputs(batch), dropout_key)
        each = cross_entropy(logits_BLC, jnp.maximum(targets, 0), self.label_smoothing)
        rows = {
            'prediction': jnp.argmax(logits_BLC, -1),
            'target': targets,
            'weight': weights.max(1),
            'confidence': confidence(logits_BLC),
            'segments': batch.get('segments', jnp.ones_like(targets)),
        }
        return Predictions(*each, weights).metrics(), rows
