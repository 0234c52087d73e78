"""UL2's mixture of denoisers: spans of several kinds, of which a token names the mode."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE
from bigmodel.tasks.corruption import Counts, Spans
from bigmodel.tasks.denoising import Denoising, cut_rows
from bigmodel.tasks.task import Beginning, Rows

R, S, X = MODES = range(3)
# Mode, share that is cut out and mean length of the spans (Tay et al. 2022, table 1). One span of
# whatever length is the end of the row, because a row begins with what stays.
DENOISERS = (
    (R, 0.15, 3.0),
    (R, 0.15, 8.0),
    (S, 0.25, np.inf),
    (X, 0.5, 3.0),
    (X, 0.5, 8.0),
    (X, 0.15, 64.0),
    (X, 0.5, 64.0),
)
MODE, RATE, MEAN = (np.array(column) for column in zip(*DENOISERS, strict=True))


@dataclasses.dataclass(frozen=True)
class UL2(Denoising):
    """Spells out what is cut out of a text by one of seven denoisers, all equally likely, drawn
    anew each time that a row comes (Tay et al. 2022, table 1).

    R cuts short spans, X many or long ones, S the last quarter. The source begins with the mode,
    which is one of three ids after the `sentinels`: R, S, X. Else rows are as of `span_corruption`,
    also with `decoder_only`; all are padded to the length that the longest denoiser's have.
    Metrics, over the tokens of targets: `loss` (nats a token, with the extras), `nll` (nats a
    token), `accuracy`.
    """

    sentinels: Annotated[int, POSITIVE] = 100
    decoder_only: bool = False
    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0

    @property
    def extra_ids(self) -> int:
        """The sentinels and the modes."""
        return self.sentinels + len(MODES)

    def counts(self, seq_len: int) -> tuple[Counts, Counts]:
        return Spans(RATE, MEAN).counts(np.full(len(RATE), seq_len))

    def lengths(self, seq_len: int) -> tuple[int, int]:
        return self.fit(seq_len, added=1)

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """The source, and the tokens that the model reads and predicts, as the layout has them."""
        drawn = draws.below(len(DENOISERS), 1)[:, 0]
        cut = cut_rows(rows, Spans(RATE[drawn], MEAN[drawn]), draws, tokenizer)
        modes = (self._first_mode(tokenizer) + MODE[drawn]).astype(cut.source.dtype)
        cut = cut._replace(
            source=np.concatenate([modes[:, None], cut.source], 1),
            source_lengths=cut.source_lengths + 1,
        )
        return self.layout.rows(cut, self.lengths(rows['tokens'].shape[1]), tokenizer)

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the source; one without a mode gets R when it has sentinels, else S and a
        sentinel after its last token.
        """
        first = self._first_mode(tokenizer)
        if prompt and prompt[0] < first:
            spans = max(prompt) >= tokenizer.vocab_size
            prompt = [first + R, *prompt] if spans else [first + S, *prompt, tokenizer.vocab_size]
        return super().begin(prompt, tokenizer)

    def _first_mode(self, tokenizer: Tokenizer) -> int:
        return tokenizer.vocab_size + self.sentinels
