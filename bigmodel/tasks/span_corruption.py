"""Span corruption: pre-training of encoder–decoders without labels."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE, Range
from bigmodel.tasks.corruption import Counts, Spans, cut_out
from bigmodel.tasks.encoder_decoder import EncoderDecoder
from bigmodel.tasks.task import Beginning, Rows

AT_LEAST_ONE = Range(lambda x: x >= 1, 'at least 1')


@dataclasses.dataclass(frozen=True)
class SpanCorruption(EncoderDecoder):
    """Spells out spans that are cut out of the text which the encoder reads (Raffel et al. 2019,
    §3.1.4).

    Of a row's tokens the share `rate` is cut out, in spans of `mean_length` on average, drawn anew
    each time that a row comes. Each span is a sentinel in the source, one of `sentinels` ids of the
    task's own; the decoder begins with the padding id and spells each sentinel with its span, then
    one more. As in T5's code a row is one text, whatever documents it holds: the packings 'windows'
    and 'pad' give each a row of its own. Metrics, over the tokens of targets: `loss` (nats a token,
    with the extras), `nll` (nats a token), `accuracy`.
    """

    rate: Annotated[float, POSITIVE, SHARE] = 0.15
    mean_length: Annotated[float, AT_LEAST_ONE] = 3.0
    sentinels: Annotated[int, POSITIVE] = 100
    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0

    @property
    def extra_ids(self) -> int:
        """The sentinels."""
        return self.sentinels

    def lengths(self, seq_len: int) -> tuple[int, int]:
        if seq_len < 2:
            raise UserError(f'data.seq_len={seq_len}: span_corruption needs rows of 2 tokens')
        noise, spans = (x.item() for x in self._spans.counts(np.array([seq_len])))
        if spans + 1 > self.sentinels:
            raise UserError(
                f'task: rows of data.seq_len={seq_len} have {spans} spans, which take '
                f'{spans + 1} sentinels; set span_corruption(sentinels={spans + 1})'
            )
        return noise + spans + 1, seq_len - noise + spans

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`source` and the decoder's `tokens`, one more than it reads, with their segments."""
        tokens = rows['tokens']
        n, seq_len = tokens.shape
        target_length, source_length = self.lengths(seq_len)
        # Padding is at the end of a row.
        lengths = (rows.get('segments', np.ones_like(tokens)) > 0).sum(1)
        noise = self._spans.draw(lengths, draws, seq_len)
        cut = cut_out(tokens, lengths, noise, tokenizer.vocab_size)
        source, read = _row(cut.source, cut.source_lengths, source_length, tokenizer.pad_id)
        target, spelt = _row(cut.target, cut.target_lengths, target_length, tokenizer.pad_id)
        start, here = np.full((n, 1), tokenizer.pad_id, np.int32), np.ones((n, 1), np.int32)
        return {
            'tokens': np.concatenate([start, target], 1),
            'segments': np.concatenate([here, spelt], 1),
            'source': source,
            'source_segments': read,
        }

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the source; the target ends with the sentinel after its last."""
        if not prompt:
            raise UserError('the prompt is empty, but it is what the encoder reads; give one')
        last = max(prompt) + 1 - tokenizer.vocab_size
        end = tokenizer.vocab_size + min(max(last, 0), self.sentinels - 1)
        return Beginning([tokenizer.pad_id], end, prompt)

    @property
    def _spans(self) -> Spans:
        return Spans(self.rate, self.mean_length)


def _row(
    values: Int[np.ndarray, 'n P'], lengths: Counts, size: int, pad_id: int
) -> tuple[Int[np.ndarray, 'n L'], Int[np.ndarray, 'n L']]:
    """The values and their segments, 1, in rows of `size` places, of which the rest is padding."""
    segments = (np.arange(size) < lengths[:, None]).astype(np.int32)
    wide = np.pad(values, ((0, 0), (0, size - values.shape[1])))
    return np.where(segments > 0, wide, pad_id).astype(np.int32), segments
