"""From one text to another, by an encoder–decoder: translation, summaries, answers."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, SHARE
from bigmodel.tasks.encoder_decoder import EncoderDecoder
from bigmodel.tasks.task import Beginning, Rows


@dataclasses.dataclass(frozen=True)
class Seq2Seq(EncoderDecoder):
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
    learns, packing = 'responses', 'sides'

    @property
    def extra_tokens(self) -> int:
        """The room for the response, which follows the prompt's."""
        return self.target_length

    def lengths(self, seq_len: int) -> tuple[int, int]:
        return self.target_length, seq_len

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`source` and the decoder's `tokens`, one more than it reads, with their segments."""
        tokens, pad_id = rows['tokens'], tokenizer.pad_id
        here, response = rows['segments'] > 0, rows['marks'] == 1
        size = tokens.shape[1] - self.target_length
        source, read = _gathered(tokens, here & ~response, size, pad_id)
        target, spelt = _gathered(tokens, here & response, self.target_length, pad_id)
        start = np.full((len(tokens), 1), pad_id, np.int32)
        return {
            'tokens': np.concatenate([start, target], 1),
            'segments': np.concatenate([np.ones_like(start), spelt], 1),
            'source': source,
            'source_segments': read,
        }

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """The prompt is the source, with the token that starts a document where there is one."""
        if not set(prompt) - {tokenizer.eos_id}:
            raise UserError('the prompt is empty, but it is what the encoder reads; give one')
        first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return Beginning([tokenizer.pad_id], tokenizer.eos_id, [*first, *prompt])


def _gathered(
    tokens: Int[np.ndarray, 'n L'], keep: Bool[np.ndarray, 'n L'], size: int, pad_id: int
) -> tuple[Int[np.ndarray, 'n S'], Int[np.ndarray, 'n S']]:
    """The kept tokens of each row side by side, and their segments: 1, 0 where there is padding."""
    order = np.argsort(~keep, axis=1, kind='stable')[:, :size]
    kept, there = (np.take_along_axis(x, order, 1) for x in (tokens, keep))
    return np.where(there, kept, pad_id).astype(np.int32), there.astype(np.int32)
