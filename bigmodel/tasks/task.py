"""What a task is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.models.heads import Outputs

Rows = dict[str, np.ndarray]
Batch = Mapping[str, Array]
# By row: `prediction`, `target`, `weight` (0: the row does not count), `confidence` (probability of
# what is predicted) where there is one, and what else it takes to read these.
Judged = dict[str, Array]
# The model with its parameters bound:
# (inputs, positions, segments, dropout_key, source=None, prefix=None, hidden=None) -> outputs.
ModelFn = Callable[..., Outputs]


@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A ModelFn, with the companions that the task asks for, which do not learn."""

    model: ModelFn
    companions: Mapping[str, ModelFn]

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        return self.model(*args, **kwargs)

    def companion(self, name: str) -> ModelFn:
        """One that the task has in its `companions`."""
        return self.companions[name]


@runtime_checkable
class Objective(Protocol):
    """A task, or what reads one in another way."""

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        """The metrics of a batch, and what is predicted for each row."""


# The fields of a batch that models read, and what they hold.
KINDS = {'tokens': 'tokens', 'image': 'images'}


def model_inputs(batch: Batch) -> tuple[Array, Array | None, Array | None]:
    """What the model is given of a batch: its tokens or images, their positions and segments."""
    (inputs,) = (batch[kind] for kind in KINDS if kind in batch)
    return inputs, batch.get('positions'), batch.get('segments')


def documents_of(batch: Batch) -> dict[str, Array]:
    """Of N groups of g documents, the fields that each document has: N·g rows of tokens."""
    fields = (*KINDS, 'positions', 'segments', 'marks')
    return {k: batch[k].reshape(-1, *batch[k].shape[2:]) for k in fields if k in batch}


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What generation starts from: the model's first tokens, and what an encoder reads, if any.

    `end` is the id with which a text ends (None: it has none); the first `prefix` tokens see each
    other from both sides, where the mask shows a prefix.
    """

    tokens: Sequence[int]
    end: int | None
    source: Sequence[int] = ()
    prefix: int = 0


class Task:
    """Turns a batch into metrics, one of which, 'loss', is minimised.

    `extra_tokens` is how many tokens past the sequence length a row holds (and shares with the
    next row); `labelled` says whether rows need a label. `extra_ids` tokens follow the tokenizer's
    own in the model's vocabulary: ids vocab_size, vocab_size + 1, … `reads` are those of `KINDS`
    that it can work on, `predicts` is what it predicts (and its head: `heads`), `learns` what its
    formats teach. An example has `group` documents. `companions` are the frozen models that it asks
    the model for ('reference', 'teacher'), and `companions_are` is what each must be.
    """

    reads: tuple[str, ...] = ('tokens',)
    predicts = 'tokens'
    learns = ''  # nothing beside the text itself
    whole_documents = False  # whether a row must be one whole document
    windows = ''  # the packing that makes several rows of such a document, for this task alone
    packing = ''  # the one that rows must come from, which no other task can read; '': any other
    extra_tokens = 0
    extra_ids = 0
    group = 1
    companions: tuple[str, ...] = ()
    companions_are = 'decoder'  # of `training.companions.REFUSALS`
    labelled = False
    skips_unlabelled = False  # whether rows with the label -1 are left out
    learns_unlabelled = False  # whether something is predicted of them too
    causal = False  # whether next tokens are predicted, so the model must not see later ones
    two_sided = False  # whether tokens follow from both sides, so the model must see later ones
    prefixed = False  # whether batches mark a prefix, which the mask `prefix` shows to all
    hides = 0  # the side in pixels of the squares of an image that batches hide
    either_way = False  # whether its argument decoder_only says that there is no encoder
    whole_text = False  # whether every token is, so that losses are of the text, by position too
    text_nll = 'nll'  # the metric that says the nats a token of it

    @property
    def heads(self) -> tuple[str, ...]:
        """What each head of the model is to predict."""
        return (self.predicts,)

    def lengths(self, seq_len: int) -> tuple[int, int]:
        """Tokens of the model, and of its encoder's source, that a row of `seq_len` becomes."""
        return seq_len, 0

    def augment(self, rows: Rows, draws: Draws) -> Rows:
        """What becomes of rows of training, and of those alone, before `prepare`."""
        return rows

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """What the batch of these rows is, in numpy: a row's `draws` depend on (seed, place)."""
        return rows

    def begin(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Beginning:
        """How a model of this task goes on from a prompt: after the document's first token.

        Raises UserError when there is nothing to go on from.
        """
        first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        if not first and not prompt:
            raise UserError(
                'the prompt is empty, and this tokenizer has no start token; give a prompt'
            )
        return Beginning([*first, *prompt], tokenizer.eos_id)

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        """Metrics of `batch`; dropout is on exactly when `dropout_key` is given."""
        raise NotImplementedError

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        """The metrics, and what is predicted for each row; {} where a task says no more."""
        return self(model, batch, dropout_key), {}


class RowTask(Task):
    """A task that says what it predicts for each row, of which its metrics are one summary."""

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        return self.judge(model, batch, dropout_key)[0]

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        raise NotImplementedError
