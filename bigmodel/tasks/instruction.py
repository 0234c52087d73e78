"""Prediction of responses to prompts: instruction tuning."""

import dataclasses

import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.tasks.causal_lm import CausalLM
from bigmodel.tasks.task import Rows


@dataclasses.dataclass(frozen=True)
class Instruction(CausalLM):
    """Predicts the tokens of responses, each from all before it in its document; prompts and the
    turns of users are read and not learned (Ouyang et al. 2022, §3.5; Taori et al. 2023, Alpaca).

    Tokens with mark 1 count, among them the token that ends a response. Metrics, over these: as of
    `causal_lm`.
    """

    whole_text = False
    learns = 'responses'

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`weights`: 1 where a token is of a response."""
        return rows | {'weights': (rows['marks'] == 1).astype(np.float32)}
