"""Greedy decoding of prompts of different lengths, in one program of static shapes."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bigmodel.models.encoder import Source
from bigmodel.models.model import Model, apply_cached


def greedy(
    model: Model,
    params: Any,
    prompts_BP: Int[Array, 'B P'],
    lengths_B: Int[Array, ' B'],
    max_tokens: int,
    shortest: int,
    source: Source | None = None,
) -> Int[Array, 'B N']:
    """The `max_tokens` most likely ids that follow the first `lengths_B` ids of each row.

    `shortest` ids, which every prompt has, are read at once. Then each row has its own next one
    until its prompt ends: with padding before the prompts, slots would no more count from a
    document's beginning, and recurrences would begin with it. An encoder reads its `source` once.
    """
    P = prompts_BP.shape[1]
    length = P + max_tokens
    row_BL = jnp.pad(prompts_BP, ((0, 0), (0, max_tokens)))
    first = row_BL[:, :shortest]
    logits_BLV, cache = apply_cached(model, params, None, first, length, source=source)

    def step(carry: tuple, slot: Array) -> tuple[tuple, None]:
        row_BL, cache, logits_BV = carry
        likely_B = jnp.argmax(logits_BV, -1).astype(row_BL.dtype)
        token_B = jnp.where(slot < lengths_B, row_BL[:, slot], likely_B)
        logits_BLV, cache = apply_cached(model, params, cache, token_B[:, None], length)
        return (row_BL.at[:, slot].set(token_B), cache, logits_BLV[:, -1]), None

    slots = jnp.arange(shortest, length)
    (row_BL, _, _), _ = jax.lax.scan(step, (row_BL, cache, logits_BLV[:, -1]), slots)
    return jnp.take_along_axis(row_BL, lengths_B[:, None] + jnp.arange(max_tokens), 1)
