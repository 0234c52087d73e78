"""How a source and the target that is predicted of it are laid out for a model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from bigmodel.data.tokenizers import Tokenizer
from bigmodel.models.deferred import Logits
from bigmodel.models.encoder import Source
from bigmodel.tasks.causal_lm import next_tokens
from bigmodel.tasks.corruption import Counts, Cut
from bigmodel.tasks.task import Batch, Beginning, ModelFn, Rows


class Apart:
    """An encoder reads the source; the decoder begins with the padding id (Raffel et al. 2019)."""

    def lengths(self, source: Counts, target: Counts) -> tuple[int, int]:
        """Tokens of the model and of its encoder, of rows with parts of these lengths."""
        return int(target.max()), int(source.max())

    def rows(self, cut: Cut, lengths: tuple[int, int], tokenizer: Tokenizer) -> Rows:
        """The batch: the model reads all but the last of a row's tokens, and predicts the rest."""
        target_length, source_length = lengths
        source, read = _row(cut.source, cut.source_lengths, source_length, tokenizer.pad_id)
        target, spelt = _row(cut.target, cut.target_lengths, target_length, tokenizer.pad_id)
        start = np.full((len(target), 1), tokenizer.pad_id, np.int32)
        return {
            'tokens': np.concatenate([start, target], 1),
            'segments': np.concatenate([np.ones_like(start), spelt], 1),
            'source': source,
            'source_segments': read,
        }

    def predicted(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> 'Predicted':
        """The logits of what is predicted, with targets and weights."""
        inputs, targets, weights = next_tokens(batch)
        source = Source(batch['source'], None, batch['source_segments'])
        return Predicted(model(*inputs, dropout_key, source=source), targets, weights)

    def begin(self, source: Sequence[int], end: int, tokenizer: Tokenizer) -> Beginning:
        """What the model goes on from, to spell the target of this source."""
        return Beginning([tokenizer.pad_id], end, source)


class Joined(Apart):
    """A decoder reads the source, which is a prefix, and the target follows it (Raffel et al. 2019,
    §3.2.1).
    """

    def lengths(self, source: Counts, target: Counts) -> tuple[int, int]:
        return int((source + target).max()) - 1, 0

    def rows(self, cut: Cut, lengths: tuple[int, int], tokenizer: Tokenizer) -> Rows:
        places = np.arange(lengths[0] + 1)
        read, end = cut.source_lengths[:, None], (cut.source_lengths + cut.target_lengths)[:, None]
        prefix, target = places < read, (places >= read) & (places < end)
        tokens = np.full(prefix.shape, tokenizer.pad_id, np.int32)
        tokens[prefix] = _inside(cut.source, cut.source_lengths)
        tokens[target] = _inside(cut.target, cut.target_lengths)
        return {
            'tokens': tokens,
            'segments': (prefix | target).astype(np.int32),
            'prefix': prefix,
            'weights': target.astype(np.float32),
        }

    def predicted(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> 'Predicted':
        inputs, targets, weights = next_tokens(batch)
        logits = model(*inputs, dropout_key, prefix=batch['prefix'][:, :-1])
        return Predicted(logits, targets, weights)

    def begin(self, source: Sequence[int], end: int, tokenizer: Tokenizer) -> Beginning:
        return Beginning(source, end, prefix=len(source))


class Predicted(NamedTuple):
    """Logits, and what they should say, by how much it counts."""

    logits: Logits
    targets: Array
    weights: Array


# By the argument `decoder_only` of a task.
LAYOUTS = {False: Apart(), True: Joined()}


def _inside(values: Int[np.ndarray, 'n P'], lengths: Counts) -> Int[np.ndarray, ' k']:
    return values[np.arange(values.shape[1]) < lengths[:, None]]


def _row(
    values: Int[np.ndarray, 'n P'], lengths: Counts, size: int, pad_id: int
) -> tuple[Int[np.ndarray, 'n size'], Int[np.ndarray, 'n size']]:
    """The values and their segments, 1, in rows of `size` places, of which the rest is padding."""
    segments = (np.arange(size) < lengths[:, None]).astype(np.int32)
    wide = np.pad(values, ((0, 0), (0, size - values.shape[1])))
    return np.where(segments > 0, wide, pad_id).astype(np.int32), segments
