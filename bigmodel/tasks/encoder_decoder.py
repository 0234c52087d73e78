"""What tasks of encoder–decoders have in common: the loss of what the decoder spells."""

import jax
import jax.numpy as jnp

from bigmodel.metrics import Metrics
from bigmodel.models.encoder import Source
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Task


class EncoderDecoder(Task):
    """Base of tasks whose batches have `source` and the decoder's `tokens`, one more than it reads,
    with their segments.
    """

    z_loss: float
    label_smoothing: float
    causal = True

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        tokens, segments = batch['tokens'], batch['segments']
        weights = (segments[:, 1:] > 0).astype(jnp.float32)
        if 'valid' in batch:
            weights *= batch['valid'][:, None]
        source = Source(batch['source'], None, batch['source_segments'])
        logits = model(tokens[:, :-1], None, segments[:, :-1], dropout_key, source=source)
        each = cross_entropy(logits, tokens[:, 1:], self.label_smoothing, self.z_loss)
        return Predictions(*each, weights).metrics()
