"""Prediction of hidden tokens from both sides: pre-training of encoders without labels."""

import dataclasses
from typing import Annotated

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

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
    token drawn from the tokenizer's, and the rest stays. With `whole_words` words (of scripts
    without spaces, such as Chinese, each character) are chosen one after the other, and left out
    when they have more tokens than are still wanted; what becomes of a token is drawn as before
    (Devlin et al. 2018, later code; Cui et al. 2019). Metrics, over the chosen tokens: `loss` (nats
    a token, with the extras), `nll` (nats a token), `accuracy`.
    """

    rate: Annotated[float, POSITIVE, SHARE] = 0.15
    mask: Annotated[float, FRACTION] = 0.8
    random: Annotated[float, FRACTION] = 0.1
    whole_words: bool = False
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
        can, begins = weights > 0, self._begins(rows, tokenizer)
        # `rate` of a row's tokens, rounded, at least 1, as in BERT's code.
        wanted = np.maximum(np.rint(self.rate * can.sum(1)).astype(np.int64), 1)
        chosen, share = choose(can, begins, wanted, draws), draws.unit(length)
        hidden = chosen & (share < self.mask)
        replaced = chosen & (share >= self.mask) & (share < self.mask + self.random)
        seen = np.where(replaced, draws.below(tokenizer.vocab_size, length), tokens)
        seen = np.where(hidden, tokenizer.vocab_size, seen)
        made = {'tokens': seen.astype(np.int32), 'targets': tokens, 'weights': weights * chosen}
        return rows | made

    def _begins(self, rows: Rows, tokenizer: Tokenizer) -> Bool[np.ndarray, 'n L']:
        """Where what is chosen begins: at each token, or at each word of a document."""
        tokens = rows['tokens']
        if not self.whole_words:
            return np.ones(tokens.shape, bool)
        segments = rows.get('segments', np.ones_like(tokens))
        return tokenizer.word_starts(tokens) | (np.diff(segments, axis=1, prepend=0) != 0)

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        weights = batch['weights']
        if 'valid' in batch:
            weights *= batch['valid'][:, None]
        coordinates = batch.get('positions'), batch.get('segments')
        logits = model(batch['tokens'], *coordinates, dropout_key)
        each = cross_entropy(logits, batch['targets'], self.label_smoothing, self.z_loss)
        return Predictions(*each, weights).metrics()


def choose(
    can: Bool[np.ndarray, 'n L'],
    begins: Bool[np.ndarray, 'n L'],
    wanted: Int[np.ndarray, 'n'],
    draws: Draws,
) -> Bool[np.ndarray, 'n L']:
    """At most so many tokens of each row that can be chosen, in whole words.

    Words come in random order; one that is longer than what is still wanted is left out.
    """
    (count, size), rows = can.shape, np.arange(len(can))
    begins = can & (begins | ~np.pad(can, ((0, 0), (1, 0)))[:, :-1])
    keys = np.where(begins, draws.bits(size), np.uint64(2**64 - 1))
    order = np.argsort(keys, axis=1, kind='stable')
    begin = np.maximum.accumulate(np.where(begins, np.arange(size), 0), 1)  # of each token's word
    flat = (begin + size * rows[:, None])[can]
    lengths = np.bincount(flat, minlength=count * size).reshape(count, size)
    picked, left = np.zeros((count, size), bool), wanted.copy()
    for place in order.T:
        fits = begins[rows, place] & (lengths[rows, place] <= left)
        picked[rows, place] |= fits
        left -= np.where(fits, lengths[rows, place], 0)
        if not left.any():
            break
    return can & np.take_along_axis(picked, begin, 1)


def _countable(rows: Rows, tokenizer: Tokenizer) -> Float[np.ndarray, 'n L']:
    """How much the prediction of each token would count: padding, bos and eos not at all."""
    tokens = rows['tokens']
    there = rows.get('segments', np.ones_like(tokens)) > 0
    marks = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    weights = rows.get('weights', np.ones(tokens.shape, np.float32))
    return weights * (there & ~np.isin(tokens, marks))
