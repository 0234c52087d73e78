"""Next-token prediction: pre-training without labels."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigmodel.metrics import Metrics
from bigmodel.specs import NOT_NEGATIVE, SHARE
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Task


@dataclasses.dataclass(frozen=True)
class CausalLM(Task):
    """Predicts each token from those before it in its document (Radford et al. 2018).

    A row of L+1 tokens gives L predictions; the first token of a document is not predicted. A batch
    may carry `weights`, how much the prediction of each token counts (0: not at all).
    Metrics: `loss` (nats a token, with the extras), `nll` (nats a token), `accuracy`.
    """

    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0
    extra_tokens = 1
    causal = True
    whole_text = True

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        return self.by_token(model, batch, dropout_key).metrics()

    def by_token(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Predictions:
        """What the metrics are means of: the prediction of each token after a row's first."""
        inputs, targets, weights = next_tokens(batch)
        logits = model(*inputs, dropout_key)
        each = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
        return Predictions(*each, weights)


def next_tokens(
    batch: Batch,
) -> tuple[tuple[Array, Array | None, Array | None], Int[Array, 'B L'], Float[Array, 'B L']]:
    """Of rows of L+1 tokens: (tokens, positions, segments) for the model, targets, weights."""
    tokens, positions, segments = batch['tokens'], batch.get('positions'), batch.get('segments')
    weights = jnp.ones(tokens[:, 1:].shape, jnp.float32)
    if segments is not None:
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        weights = same.astype(jnp.float32)
        segments = segments[:, :-1]
    if positions is not None:
        positions = positions[:, :-1]
    if 'weights' in batch:
        weights *= batch['weights'][:, 1:]
    if 'valid' in batch:
        weights *= batch['valid'][:, None]
    return (tokens[:, :-1], positions, segments), tokens[:, 1:], weights
