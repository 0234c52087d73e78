"""Prediction of what follows a prefix that is read from both sides: pre-training without labels."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.tasks.causal_lm import CausalLM, next_tokens
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, Beginning, ModelFn, Rows


@dataclasses.dataclass(frozen=True)
class PrefixLM(CausalLM):
    """Predicts the tokens after a prefix, whose tokens the mask `prefix` shows to each other from
    both sides (Liu et al. 2018; Raffel et al. 2019, §3.2.1).

    Of the n tokens that a row holds of a document 1 to n−1 are its prefix, all equally likely,
    drawn anew each time that a row comes. Metrics, over the tokens after a prefix: as of
    `causal_lm`.
    """

    whole_text = False
    prefixed = True
    two_sided = True

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`prefix`, and `weights`: 0 where a token is of a prefix."""
        prefix = draw_prefixes(_documents(rows), draws)
        weights = rows.get('weights', np.ones(prefix.shape, np.float32))
        return rows | {'prefix': prefix, 'weights': weights * ~prefix}

    def by_token(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Predictions:
        inputs, targets, weights = next_tokens(batch)
        logits = model(*inputs, dropout_key, prefix=batch['prefix'][:, :-1])
        each = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
        return Predictions(*each, weights)

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the prefix."""
        begin = super().begin(prompt, tokenizer)
        return dataclasses.replace(begin, prefix=len(begin.tokens))


def draw_prefixes(document: Int[np.ndarray, 'n L'], draws: Draws) -> Bool[np.ndarray, 'n L']:
    """Which tokens of documents, each numbered within its row (0: padding), are of their prefix."""
    rows, size = document.shape
    flat = (document + (size + 1) * np.arange(rows)[:, None]).ravel()
    lengths = np.bincount(flat, minlength=rows * (size + 1)).reshape(rows, -1)
    # A document of one token has no prefix.
    prefix = 1 + np.floor(draws.unit(size + 1) * (lengths - 1)).astype(np.int64)
    prefix = np.where(lengths > 1, prefix, 0)
    begins = np.cumsum(lengths[:, 1:], 1) - lengths[:, 1:]
    own = np.maximum(document - 1, 0)
    place = np.arange(size) - np.take_along_axis(begins, own, 1)
    return (document > 0) & (place < np.take_along_axis(prefix, document, 1))


def _documents(rows: Rows) -> Int[np.ndarray, 'n L']:
    """The number of each token's document in its row, counted from 1; 0 is padding."""
    segments = rows.get('segments', np.ones_like(rows['tokens']))
    return segments.astype(np.int64)
