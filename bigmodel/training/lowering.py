"""The training step traced for its devices: from arrays, or from nothing but their shapes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import Data
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.models.model import Model
from bigmodel.specs import parse
from bigmodel.tasks.task import Objective, Rows
from bigmodel.training.outline import Outline
from bigmodel.training.step import EMPTY, make_train_step


def lower_step(
    plan: Outline, task: Objective, batch: Mapping[str, Any], models: Mapping[str, Model] = EMPTY
) -> Any:
    """The step of a run, lowered; it takes over the memory of the state.

    `task` is what reads the batch, `models` are the companions; leaves of `batch` are arrays or
    their shapes, with their placement. To be called within `plan.sharding.active()`.
    """
    step = make_train_step(plan.model, task, plan.optimizer, plan.config.accumulate, models)
    places = jax.tree.map(lambda a: a.sharding, plan.abstract)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    return jitted.lower(plan.abstract, batch, plan.hparams)


def abstract_batch(plan: Outline, data: Data | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch; without `data` those of rows of text, which need none."""
    row = _row_of(plan) if data is None else data.batches.examples.take(np.zeros(1, np.int64))
    tokenizer = ByteTokenizer() if data is None else data.tokenizer
    draws = Draws(np.zeros(1, np.uint64))
    made = plan.task.prepare(plan.task.augment(row, draws), draws, tokenizer)
    rows = plan.config.data.batch_size

    def shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
        dims = (rows, *x.shape[1:])
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct(dims, dtype, sharding=plan.sharding.batch(dims))

    return {name: shape(x) for name, x in made.items()}


def _row_of(plan: Outline) -> Rows:
    """A row as `data.packing` makes them of text."""
    zeros = np.zeros((1, plan.config.data.seq_len + plan.task.extra_tokens), np.int32)
    packing = parse(plan.config.data.packing, 'data.packing')
    plain = packing.name == 'stream' and packing.kwargs.get('segments') is False
    fields = ('tokens',) if plain else ('tokens', 'segments', 'positions')
    return dict.fromkeys(fields, zeros)
