"""Attention as it is defined: weights(QKᵀ/√d_k + bias)V over the pairs that a mask allows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.kernel import MASKED, Kernel
from bigmodel.layers.masks import Mask
from bigmodel.layers.names import named
from bigmodel.layers.weights import PLAIN, Weights


class Reference(Kernel):
    """Plain einsums with a float32 softmax (Vaswani et al. 2017, eq. 1): the definition."""

    def __call__(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        v_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
        dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
        weights: Weights = PLAIN,
    ) -> Float[Array, 'B L H K']:
        B, L, H, K = q_BLHK.shape
        S, G = k_BSGK.shape[1:3]
        R = H // G
        # The R·L queries that share a key head are rows of one product.
        q_BGMK = (q_BLHK * K**-0.5).reshape(B, L, G, R, K).transpose(0, 2, 3, 1, 4)
        q_BGMK = q_BGMK.reshape(B, G, R * L, K)
        terms = (_as_rows(_mask_term(mask, context)[:, None], 1, R),)
        if context.bias is not None:
            terms += (_as_rows(context.bias(context.queries, context.keys), G, R),)
        keep = None
        if dropout_key is not None and dropout:
            kept = jax.random.bernoulli(dropout_key, 1 - dropout, (B, G, R * L, S))
            keep = kept / (1 - dropout)
        k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
        if weights.plain:
            o_BGMK = attend(q_BGMK, k_BGSK, v_BGSK, terms, keep)
        else:
            o_BGMK = attend_by(weights, (B, H, L, S), q_BGMK, k_BGSK, v_BGSK, terms, keep)
        return o_BGMK.reshape(B, G, R, L, K).transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


def _mask_term(mask: Mask, context: Context) -> Float[Array, 'B L S']:
    """0 or −1e30, which absorbs any logit it is added to.

    Adding needs no select in the backward pass. XLA would compare segments again for every head
    and pass rather than read a term, hence the barrier. (Measured on CPU with 256 packed tokens:
    attention takes 0.6 times as long as with a select.)
    """
    allowed_BLS = mask(context.queries, context.keys)
    return jax.lax.optimization_barrier(jnp.where(allowed_BLS, 0.0, MASKED))


def _as_rows(term_BHLS: Array, G: int, R: int) -> Float[Array, 'B G M S']:
    """A term of the logits for the R·L rows of each of G key heads (G 1: the same for all)."""
    B, H, L, S = term_BHLS.shape
    term_BGRLS = term_BHLS.reshape(B, G, H // G, L, S)
    return jnp.broadcast_to(term_BGRLS, (B, G, R, L, S)).reshape(B, G, R * L, S)


@jax.custom_vjp
def attend(
    q_BGMK: Float[Array, 'B G M K'],
    k_BGSK: Float[Array, 'B G S K'],
    v_BGSK: Float[Array, 'B G S K'],
    terms: tuple[Array, ...],
    keep: Float[Array, 'B G M S'] | None,
) -> Float[Array, 'B G M K']:
    """(softmax(QKᵀ + terms) ⊙ keep)·V; terms broadcast over the logits, keep None is all ones.

    The backward pass is written out as in Dao et al. 2022, appendix B.2: what the softmax
    subtracts, Σ_s p·dp, is o·do, a sum over K features and not over S keys; and the products with
    pᵀ are taken as (doᵀ·p)ᵀ, which transposes the small factor. (Measured on CPU with 256 tokens:
    attention takes 0.6 times as long as with autodiff around a custom softmax.)
    """
    return _attend_forward(q_BGMK, k_BGSK, v_BGSK, terms, keep)[0]


def _attend_forward(
    q: Array, k: Array, v: Array, terms: tuple[Array, ...], keep: Array | None
) -> tuple[Array, tuple]:
    logits = jnp.einsum('BGMK,BGSK->BGMS', q, k).astype(jnp.float32)
    for term in terms:
        logits = logits + term
    p = jax.nn.softmax(logits, axis=-1)
    o = jnp.einsum('BGMS,BGSK->BGMK', _times(p, keep).astype(v.dtype), v)
    o = named('attention_out', o)
    return o, (q, k, v, terms, keep, p, o)


def _attend_backward(saved: tuple, do: Array) -> tuple:
    q, k, v, terms, keep, p, o = saved
    dv = jnp.einsum('BGMK,BGMS->BGKS', do, _times(p, keep).astype(do.dtype)).swapaxes(2, 3)
    dp = _times(jnp.einsum('BGMK,BGSK->BGMS', do, v).astype(jnp.float32), keep)
    shift = jnp.sum(do.astype(jnp.float32) * o.astype(jnp.float32), axis=-1, keepdims=True)
    d = p * (dp - shift)
    dq = jnp.einsum('BGMS,BGSK->BGMK', d.astype(k.dtype), k)
    dk = jnp.einsum('BGMK,BGMS->BGKS', q, d.astype(q.dtype)).swapaxes(2, 3)
    # Nobody asks for the gradient of a mask's term, and the compiler drops its sum.
    return dq, dk, dv, tuple(_sum_to(d, term.shape) for term in terms), None


attend.defvjp(_attend_forward, _attend_backward)


def attend_by(
    weights: Weights,
    shape: tuple[int, int, int, int],
    q_BGMK: Float[Array, 'B G M K'],
    k_BGSK: Float[Array, 'B G S K'],
    v_BGSK: Float[Array, 'B G S K'],
    terms: tuple[Array, ...],
    keep: Float[Array, 'B G M S'] | None,
) -> Float[Array, 'B G M K']:
    """`attend` with other weights than the softmax's; `shape` is that of logits_BHLS."""
    logits = jnp.einsum('BGMK,BGSK->BGMS', q_BGMK, k_BGSK).astype(jnp.float32)
    logits = weights.score(logits)
    for term in terms:
        logits = logits + term
    p = _times(weights(logits.reshape(shape)).reshape(logits.shape), keep)
    o_BGMK = jnp.einsum('BGMS,BGSK->BGMK', p.astype(v_BGSK.dtype), v_BGSK)
    return named('attention_out', o_BGMK)


def _times(p: Array, keep: Array | None) -> Array:
    return p if keep is None else p * keep


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sums `x` over the dims that broadcasting stretched."""
    return jnp.sum(x, axis=[i for i, n in enumerate(shape) if n < x.shape[i]], keepdims=True)
