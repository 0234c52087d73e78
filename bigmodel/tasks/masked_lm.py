"""Prediction of hidden tokens from both sides: pre-training of encoders without labels."""

import dataclasses
from typing import Annotated

import jax
import numpy as np
from jaxtyping import Bool, Float

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.metrics import Metrics
from bigmodel.specs import FRACTION, NOT_NEGATIVE, POSITIVE, SHARE
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, ModelFn, Rows, Task


@dataclasses.dataclass(frozen=True)
class MaskedLM(Task):
    """Predicts chosen tokens, most of which are hidden (Devlin et al. 2018, §3.1), chosen anew each
    time that a row comes (Liu et al. 2019, §4.1).

    Of a row's tokens `rate` are chosen, at least one: neither padding nor the marks of a document's
    ends. Of those the share `mask` becomes the mask, which is an id of the task's own, `random` a
    token drawn from the tokenizer's, and the rest stays. Metrics, over the chosen tokens: `loss`
    (nats a token, with the extras), `nll` (nats a token), `accuracy`.
    """

    rate: Annotated[float, POSITIVE, SHARE] = 0.15
    mask: Annotated[float, FRACTION] = 0.8
    random: Annotated[float, FRACTION] = 0.1
    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0
    extra_ids = 1
    two_sided = True

    def __post_init__(self) -> None:
        if self.mask + self.random > 1:
            raise ValueError(
                f'mask={self.mask} and random={self.random} must be at most 1 together'
            )

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """Tokens as the model sees them, `targets`, and `weights`: 1 where a token is chosen."""
        tokens, weights = rows['tokens'], _countable(rows, tokenizer)
        length = tokens.shape[1]
        chosen, share = self._choose(weights > 0, draws), draws.unit(length)
        hidden = chosen & (share < self.mask)
        replaced = chosen & (share >= self.mask) & (share < self.mask + self.random)
        seen = np.where(replaced, draws.below(tokenizer.vocab_size, length), tokens)
        seen = np.where(hidden, tokenizer.vocab_size, seen)
        made = {'tokens': seen.astype(np.int32), 'targets': tokens, 'weights': weights * chosen}
        return rows | made

    def _choose(self, can: Bool[np.ndarray, 'n L'], draws: Draws) -> Bool[np.ndarray, 'n L']:
        """`rate` of the tokens of each row that can be, rounded, at least 1, as in BERT's code."""
        wanted = np.maximum(np.rint(self.rate * can.sum(1)), 1)
        bits = draws.bits(can.shape[1])
        order = np.argsort(np.where(can, bits, np.uint64(2**64 - 1)), axis=1, kind='stable')
        return can & (np.argsort(order, axis=1) < wanted[:, None])

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        weights = batch['weights']
        if 'valid' in batch:
            weights *= batch['valid'][:, None]
        coordinates = batch.get('positions'), batch.get('segments')
        logits = model(batch['tokens'], *coordinates, dropout_key)
        each = cross_entropy(logits, batch['targets'], self.label_smoothing, self.z_loss)
        return Predictions(*each, weights).metrics()


def _countable(rows: Rows, tokenizer: Tokenizer) -> Float[np.ndarray, 'n L']:
    """How much the prediction of each token would count: padding, bos and eos not at all."""
    tokens = rows['tokens']
    there = rows.get('segments', np.ones_like(tokens)) > 0
    marks = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    weights = rows.get('weights', np.ones(tokens.shape, np.float32))
    return weights * (there & ~np.isin(tokens, marks))
