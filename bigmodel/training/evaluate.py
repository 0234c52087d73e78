"""Evaluation: additive metrics over a whole split, divided once."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bigmodel.data.pipeline import Batch, Data
from bigmodel.metrics import Metrics, add, values
from bigmodel.sharding import Sharding
from bigmodel.training.setup import Setup

EvalStep = Callable[[Any, Any], Metrics]


def evaluate(
    setup: Setup, eval_step: EvalStep, params: Any, data: Data, num_batches: int = 0
) -> dict[str, float]:
    """Mean metrics over `num_batches` batches of `data`, evenly spread (0: all of them).

    Tasks that predict every next token also get `bits_per_byte` of text, which does not depend on
    the tokenizer.
    """
    total: Metrics | None = None
    there = data.batches.num_batches
    count = min(num_batches or there, there)
    for i in range(count):
        # Neighbouring rows are of the same document, hence the spread.
        metrics = eval_step(params, put_batch(data.batches(i * there // count), setup.sharding))
        # Waits for each batch: XLA:CPU's devices deadlock in their collectives when they run
        # ahead of each other, which only a dependence between programs forbids.
        metrics = jax.device_get(metrics)
        total = metrics if total is None else add(total, metrics)
    found = values(total or {})
    if setup.task.whole_text and data.store.num_bytes:
        found |= _bits_per_byte(found, data)
    return found


def put_batch(batch: Batch, sharding: Sharding) -> dict[str, jax.Array]:
    """This host's rows of a global batch as arrays over the mesh."""
    return {
        name: jax.make_array_from_process_local_data(
            sharding.batch((rows.shape[0] * jax.process_count(), *rows.shape[1:])), rows
        )
        for name, rows in batch.items()
    }


def _bits_per_byte(found: Mapping[str, float], data: Data) -> dict[str, float]:
    """Of the whole, and of each source that was read."""
    stores = {'': data.store} | {f'/{name}': part.store for name, part in data.parts.items()}
    return {
        f'bits_per_byte{of}': found[f'nll{of}'] / math.log(2) * _predicted_per_byte(store)
        for of, store in stores.items()
        if f'nll{of}' in found
    }


def _predicted_per_byte(store: Any) -> float:
    """Predicted tokens a byte of text: all but the first token of each document."""
    return (store.num_tokens - store.num_documents) / max(store.num_bytes, 1)
