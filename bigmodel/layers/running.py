"""A softmax over keys that come in blocks: running sums, and gradients block by block."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The maximum of the logits so far and Σ exp(l − maximum), (B, G, M, 1); Σ exp(l − maximum)·v.
Running = tuple[Array, Array, Array]


def as_rows(term_BHLS: Array, G: int, R: int) -> Float[Array, 'B G M S']:
    """A term of the logits for the R·L rows of each of G key heads; B and H may be 1."""
    B, H, L, S = term_BHLS.shape
    if H == 1:
        rows = jnp.broadcast_to(term_BHLS, (B, R, L, S))
        return rows.reshape(B, 1, R * L, S)
    return term_BHLS.reshape(B, G, R * L, S)


def fold(running: Running, logits_BGMS: Array, v_BGSK: Array) -> Running:
    """The sums with the keys of one more block (Rabe & Staats 2021)."""
    highest, total, o = running
    higher = jnp.maximum(highest, jnp.max(logits_BGMS, -1, keepdims=True))
    p, shrink = jnp.exp(logits_BGMS - higher), jnp.exp(highest - higher)
    o = o * shrink + jnp.einsum('BGMS,BGSK->BGMK', p.astype(v_BGSK.dtype), v_BGSK)
    return higher, total * shrink + jnp.sum(p, -1, keepdims=True), o


def gradients(
    score: Callable[[Array, Array], Array],
    added: Callable[[Any], Array],
    learned: Any,
    qkv: tuple[Array, Array, Array],
    after: tuple[Array, Array, Array, Array],
) -> tuple[Array, Array, Array, Any]:
    """Of q, k, v and `learned`, by one block whose logits are score(q, k) + added(learned).

    `after` is what is known when all keys were seen: the output's gradient do, do·o, the maximum
    and the sum. The block's weights are computed again (Dao et al. 2022).
    """
    (q, k, v), (do, shift, highest, total) = qkv, after
    scores, to_product = jax.vjp(score, q, k)
    term, to_learned = jax.vjp(added, learned)
    p = jnp.exp(scores + term - highest) / total
    dv = jnp.einsum('BGMK,BGMS->BGKS', do, p.astype(do.dtype)).swapaxes(2, 3)
    dp = jnp.einsum('BGMK,BGSK->BGMS', do, v).astype(jnp.float32)
    d = p * (dp - shift)
    dq, dk = to_product(d)
    return dq, dk, dv, to_learned(_sum_to(d, term.shape))[0]


def gradients_before(
    before: Callable[[Any], tuple[Array, Array]],
    learned: Any,
    shift: Array,
    highest: Array,
    total: Array,
) -> Any:
    """Of `learned`, by the maximum and the sum before any key, which pull the output towards 0."""
    (start, sums), to_learned = jax.vjp(before, learned)
    pull = -jnp.sum(sums * jnp.exp(start - highest) / total * shift, 0, keepdims=True)
    return to_learned((pull, jnp.zeros_like(pull)))[0]


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sums `x` over the dims that broadcasting stretched."""
    return jnp.sum(x, axis=[i for i, n in enumerate(shape) if n < x.shape[i]], keepdims=True)
