"""Logits that are never there all at once: their readers are given a chunk of tokens at a time.

For a large vocabulary logits and their gradient are the largest arrays of a step. What reads them
token by token (a cross-entropy, a divergence, a draw) need not have them all: `per_token` computes
those of a chunk, reads them, and forgets them; the backward pass computes them once more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.layers.kernel import MASKED
from bigmodel.layers.matmuls import Full
from bigmodel.sharding import by_rows, constrain

# W and b of a `Deferred`; and of each argument of a reader, () of one that is an array.
Weights = tuple[Array, Array | None]
OfEach = list[Weights | tuple[()]]
Reader = Callable[..., Any]


@flax.struct.dataclass
class Deferred:
    """scale·x·W + b in float32, still to be computed: `chunk` tokens of a device at a time.

    Ids from `num_ids` on, which the tokenizer does not have, get −1e30. The leaves are arrays, or
    their shapes.
    """

    x_BLD: Any
    weight_DV: Any
    bias_V: Any = None
    scale: float = flax.struct.field(pytree_node=False, default=1.0)
    num_ids: int = flax.struct.field(pytree_node=False, default=0)
    chunk: int = flax.struct.field(pytree_node=False, default=0)
    matmul: Full = flax.struct.field(pytree_node=False, default=Full())

    def whole(self) -> Float[Array, 'B L V']:
        """All of them at once."""
        return constrain(self.form(self.x_BLD, self.weights), 'batch', 'inner_length', 'vocab')

    @property
    def weights(self) -> Weights:
        """What all tokens share."""
        return self.weight_DV, self.bias_V

    @property
    def form(self) -> Callable[[Array, Weights], Array]:
        """The logits as a function of vectors and weights."""
        return partial(_logits, scale=self.scale, num_ids=self.num_ids, matmul=self.matmul)


def _logits(
    x: Float[Array, '*s D'], weights: Weights, scale: float, num_ids: int, matmul: Full
) -> Float[Array, '*s V']:
    weight_DV, bias_V = weights
    logits = scale * matmul.contract(x, weight_DV, 1).astype(jnp.float32)
    logits = logits if bias_V is None else logits + bias_V
    ids = jnp.arange(logits.shape[-1])
    return logits if num_ids == len(ids) else jnp.where(ids < num_ids, logits, MASKED)


Logits = Float[Array, '*s V'] | Deferred


def whole(outputs: Any) -> Any:
    """Outputs of a head, with logits that are there all at once."""
    return outputs.whole() if isinstance(outputs, Deferred) else outputs


def per_token(read: Reader, *args: Any) -> Any:
    """`read(*args)`, which works on each of B×L tokens apart, of arrays and of logits.

    What it returns is a tree of arrays of B×L tokens. It may have no array but those of `args`.
    """
    chunks = [a.chunk for a in args if isinstance(a, Deferred)]
    if not chunks:
        return read(*args)
    # As functions of no arrays: what is computed again is given what it reads.
    forms = [a.form if isinstance(a, Deferred) else None for a in args]

    def of_chunk(weights: OfEach, *rows: Array) -> Any:
        every = zip(forms, rows, weights, strict=True)
        return read(*[r if form is None else form(r, w) for form, r, w in every])

    weights = [a.weights if isinstance(a, Deferred) else () for a in args]
    rows = [a.x_BLD if isinstance(a, Deferred) else a for a in args]
    # On each device by itself: of all tokens cut into chunks, XLA would gather and move them, and
    # sum the weights' gradient over devices for every chunk.
    here = partial(_in_chunks, of_chunk, min(chunks))
    return by_rows(here, weights, *rows, split=('batch', 'inner_length'))


def _in_chunks(of_chunk: Reader, chunk: int, weights: OfEach, *rows: Array) -> Any:
    """Of rows B×L×…, in chunks of at most so many tokens and of equal size."""
    B, L = rows[0].shape[:2]
    count = -(-B * L // chunk)
    size = -(-B * L // count)

    def cut(x: Array) -> Array:
        x = x.reshape(B * L, *x.shape[2:])
        x = jnp.pad(x, ((0, count * size - B * L), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(count, size, *x.shape[1:])

    def joined(y: Array) -> Array:
        return y.reshape(count * size, *y.shape[2:])[: B * L].reshape(B, L, *y.shape[2:])

    return jax.tree.map(joined, _scanned(of_chunk, weights, tuple(map(cut, rows))))


# Written out, because autodiff would add up the gradient of bfloat16 weights in bfloat16.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scanned(of_chunk: Reader, weights: OfEach, rows: tuple[Array, ...]) -> Any:
    """`of_chunk(weights, *rows)` of each chunk, the first dim of rows and of what is returned."""
    return jax.lax.map(lambda chunk: of_chunk(weights, *chunk), rows)


def _forward(of_chunk: Reader, weights: OfEach, rows: tuple[Array, ...]) -> tuple[Any, Any]:
    return _scanned(of_chunk, weights, rows), (weights, rows)


def _backward(of_chunk: Reader, saved: tuple[OfEach, tuple[Array, ...]], d_read: Any) -> Any:
    weights, rows = saved

    def floats(weights: OfEach, *chunk: Array) -> list[Array]:
        read = jax.tree.leaves(of_chunk(weights, *chunk))
        return [y for y in read if jnp.issubdtype(y.dtype, jnp.inexact)]

    def step(total: OfEach, now: tuple) -> tuple[OfEach, list[Array | None]]:
        chunk, d_floats = now
        d_weights, *d_rows = jax.vjp(floats, weights, *chunk)[1](d_floats)
        total = jax.tree.map(lambda t, d: t + d.astype(jnp.float32), total, d_weights)
        return total, [_unless_int(d) for d in d_rows]

    zeros = jax.tree.map(partial(jnp.zeros_like, dtype=jnp.float32), weights)
    d_floats = [d for d in jax.tree.leaves(d_read) if _unless_int(d) is not None]
    total, d_rows = jax.lax.scan(step, zeros, (rows, d_floats))
    return jax.tree.map(lambda t, w: t.astype(w.dtype), total, weights), tuple(d_rows)


def _unless_int(gradient: Any) -> Array | None:
    """None for the gradient of what has none."""
    return None if gradient.dtype == jax.dtypes.float0 else gradient


_scanned.defvjp(_forward, _backward)
