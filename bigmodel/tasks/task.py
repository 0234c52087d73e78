"""What a task is."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.metrics import Metrics

Rows = dict[str, np.ndarray]
Batch = Mapping[str, Array]
# The model with its parameters bound:
# (inputs, positions, segments, dropout_key, source=None) -> outputs.
ModelFn = Callable[..., Array]


# The fields of a batch that models read, and what they hold.
KINDS = {'tokens': 'tokens', 'image': 'images'}


def model_inputs(batch: Batch) -> tuple[Array, Array | None, Array | None]:
    """What the model is given of a batch: its tokens or images, their positions and segments."""
    (inputs,) = (batch[kind] for kind in KINDS if kind in batch)
    return inputs, batch.get('positions'), batch.get('segments')


class Task:
    """Turns a batch into metrics, one of which, 'loss', is minimised.

    `extra_tokens` is how many tokens past the sequence length a row holds (and shares with the
    next row); `labelled` says whether rows need a label. `extra_ids` tokens follow the tokenizer's
    own in the model's vocabulary: ids vocab_size, vocab_size + 1, … `reads` are those of `KINDS`
    that it can work on.
    """

    reads: tuple[str, ...] = ('tokens',)
    extra_tokens = 0
    extra_ids = 0
    labelled = False
    causal = False  # whether every next token is predicted, so the model must not see later ones
    two_sided = False  # whether tokens follow from both sides, so the model must see later ones

    def lengths(self, seq_len: int) -> tuple[int, int]:
        """Tokens of the model, and of its encoder's source, that a row of `seq_len` becomes."""
        return seq_len, 0

    def augment(self, rows: Rows, draws: Draws) -> Rows:
        """What becomes of rows of training, and of those alone, before `prepare`."""
        return rows

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """What the batch of these rows is, in numpy: a row's `draws` depend on (seed, place)."""
        return rows

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        """Metrics of `batch`; dropout is on exactly when `dropout_key` is given."""
        raise NotImplementedError
