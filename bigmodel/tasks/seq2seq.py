"""From one text to another, by an encoder–decoder: translation, summaries, answers."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE
from bigmodel.tasks.corruption import Counts, Cut
from bigmodel.tasks.layouts import Apart
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, Beginning, ModelFn, Rows, Task


@dataclasses.dataclass(frozen=True)
class Seq2Seq(Task):
    """The encoder reads the prompt, the decoder spells the response (Sutskever et al. 2014; Raffel
    et al. 2019, §2.4).

    A prompt has room for data.seq_len tokens, a response for `target_length`, its end included; the
    decoder begins with the padding id. A decoder alone learns the same by the task `instruction`.
    Metrics, over the tokens of responses: `loss` (nats a token, with the extras), `nll` (nats a
    token), `accuracy`.
    """

    target_length: Annotated[int, POSITIVE] = 64
    z_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0
    learns, packing, causal = 'responses', 'sides', True

    @property
    def extra_tokens(self) -> int:
        """The room for the response, which follows the prompt's."""
        return self.target_length

    def lengths(self, seq_len: int) -> tuple[int, int]:
        return self.target_length, seq_len

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`source` and the decoder's `tokens`, one more than it reads, with their segments."""
        tokens, here, response = rows['tokens'], rows['segments'] > 0, rows['marks'] == 1
        seq_len = tokens.shape[1] - self.target_length
        source = _gathered(tokens, here & ~response, seq_len)
        target = _gathered(tokens, here & response, self.target_length)
        return Apart().rows(Cut(*source, *target), self.lengths(seq_len), tokenizer)

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        logits, targets, weights = Apart().predicted(model, batch, dropout_key)
        each = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
        return Predictions(*each, weights).metrics()

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the source, with the token that starts a document where there is one."""
        if not set(prompt) - {tokenizer.eos_id}:
            raise UserError('the prompt is empty, but it is what the encoder reads; give one')
        first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return Beginning([tokenizer.pad_id], tokenizer.eos_id, [*first, *prompt])


def _gathered(
    tokens: Int[np.ndarray, 'n L'], keep: Bool[np.ndarray, 'n L'], size: int
) -> tuple[Int[np.ndarray, 'n S'], Counts]:
    """The kept tokens of each row side by side, at most `size`, and how many they are."""
    order = np.argsort(~keep, axis=1, kind='stable')[:, :size]
    return np.take_along_axis(tokens, order, 1), keep.sum(1)
