"""Span corruption: pre-training of encoder–decoders, and of decoders, without labels."""

import dataclasses
from typing import Annotated

import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE, Range
from bigmodel.tasks.corruption import Counts, Spans
from bigmodel.tasks.denoising import Denoising, cut_rows
from bigmodel.tasks.task import Rows

AT_LEAST_ONE = Range(lambda x: x >= 1, 'at least 1')


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Denoising):
    """Spells out spans that are cut out of the text which the encoder reads (Raffel et al. 2019,
    §3.1.4).

    Of a row's tokens the share `rate` is cut out, in spans of `mean_length` on average, drawn anew
    each time that a row comes. Each span is a sentinel in the source, one of `sentinels` ids of the
    task's own; the decoder begins with the padding id and spells each sentinel with its span, then
    one more. With `decoder_only` there is no encoder: source and target are one row, of which the
    source is a prefix (the mask `prefix` shows it from both sides, `causal` from one). As in T5's
    code a row is one text, whatever documents it holds: the packings 'windows' and 'pad' give each
    a row of its own. Metrics, over the tokens of targets: `loss` (nats a token, with the extras),
    `nll` (nats a token), `accuracy`.
    """

    rate: Annotated[float, POSITIVE, SHARE] = 0.15
    mean_length: Annotated[float, AT_LEAST_ONE] = 3.0
    sentinels: Annotated[int, POSITIVE] = 100
    decoder_only: bool = False
    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0

    @property
    def extra_ids(self) -> int:
        """The sentinels."""
        return self.sentinels

    def counts(self, seq_len: int) -> tuple[Counts, Counts]:
        return self._spans.counts(np.array([seq_len]))

    def lengths(self, seq_len: int) -> tuple[int, int]:
        return self.fit(seq_len)

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """The source, and the tokens that the model reads and predicts, as the layout has them."""
        cut = cut_rows(rows, self._spans, draws, tokenizer)
        return self.layout.rows(cut, self.lengths(rows['tokens'].shape[1]), tokenizer)

    @property
    def _spans(self) -> Spans:
        return Spans(self.rate, self.mean_length)
