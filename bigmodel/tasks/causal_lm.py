"""Next-token prediction: pre-training without labels."""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import NOT_NEGATIVE, SHARE
from bigmodel.tasks.losses import cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Task


class Predictions(NamedTuple):
    """The prediction of each token after a row's first: nats, whether right, and if it counts."""

    loss: Float[Array, 'B L']
    nll: Float[Array, 'B L']
    correct: Bool[Array, 'B L']
    weight: Float[Array, 'B L']


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

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        each = self.by_token(model, batch, dropout_key)
        return {
            'loss': Mean.of(each.loss, each.weight),
            'nll': Mean.of(each.nll, each.weight),
            'accuracy': Mean.of(each.correct.astype(jnp.float32), each.weight),
        }

    def by_token(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Predictions:
        """What the metrics are means of."""
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
        logits = model(tokens[:, :-1], positions, segments, dropout_key)
        loss, nll, correct = cross_entropy(logits, tokens[:, 1:], self.label_smoothing, self.z_loss)
        return Predictions(loss, nll, correct, weights)
