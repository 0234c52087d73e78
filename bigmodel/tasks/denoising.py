"""What tasks have in common that spell out spans which are cut out of a text."""

from collections.abc import Sequence

import jax
import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.tasks.corruption import Counts, Cut, Spans, cut_out
from bigmodel.tasks.layouts import LAYOUTS, Apart
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, Beginning, ModelFn, Rows, Task


class Denoising(Task):
    """Base of these tasks, which have the fields that are named here.

    Each span is a sentinel in the source, and follows it in the target, which ends with one more.
    As in T5's code a row is one text, whatever documents it holds.
    """

    sentinels: int
    decoder_only: bool
    z_loss: float
    label_smoothing: float

    causal = True
    either_way = True

    @property
    def prefixed(self) -> bool:
        """The source of a decoder is its prefix."""
        return self.decoder_only

    @property
    def layout(self) -> Apart:
        """Where source and target are."""
        return LAYOUTS[self.decoder_only]

    def counts(self, seq_len: int) -> tuple[Counts, Counts]:
        """Tokens that may be cut out of a full row, and in how many spans."""
        raise NotImplementedError

    def fit(self, seq_len: int, added: int = 0) -> tuple[int, int]:
        """`lengths`, where the source has `added` tokens of the task's own beside sentinels."""
        if seq_len < 2:
            raise UserError(f'data.seq_len={seq_len}: spans need rows of 2 tokens; set 2 or more')
        noise, spans = self.counts(seq_len)
        most = int(spans.max())
        if most + 1 > self.sentinels:
            raise UserError(
                f'task: rows of data.seq_len={seq_len} have {most} spans, which take '
                f'{most + 1} sentinels; set sentinels={most + 1}'
            )
        return self.layout.lengths(seq_len - noise + spans + added, noise + spans + 1)

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        logits, targets, weights = self.layout.predicted(model, batch, dropout_key)
        each = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
        return Predictions(*each, weights).metrics()

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the source; the target ends with the sentinel after its last."""
        if not prompt:
            raise UserError('the prompt is empty, but it is the source that is read; give one')
        marks = [i - tokenizer.vocab_size for i in prompt]
        last = max((i for i in marks if i < self.sentinels), default=0) + 1
        end = tokenizer.vocab_size + min(max(last, 0), self.sentinels - 1)
        return self.layout.begin(prompt, end, tokenizer)


def cut_rows(rows: Rows, spans: Spans, draws: Draws, tokenizer: Tokenizer) -> Cut:
    """Rows with spans cut out; padding is at the end of a row."""
    tokens = rows['tokens']
    lengths = (rows.get('segments', np.ones_like(tokens)) > 0).sum(1)
    noise = spans.draw(lengths, draws, tokens.shape[1])
    return cut_out(tokens, lengths, noise, tokenizer.vocab_size)
