"""Products of activations with weights: all of them go through `contract`.

The backward pass is written out, because autodiff asks for the weight's gradient as dyᵀ·x and a
transpose: XLA:CPU then fuses everything that made dy into the transposing copy and recomputes it
with strided reads (measured: 30 % of a small model's step). Contracting in the order below needs
no transpose on any backend. Forward-mode differentiation through it is not defined.
"""

import math
from functools import partial

import jax
from jaxtyping import Array, Float, Int


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract(x: Float[Array, '...'], w: Float[Array, '...'], n: int) -> Float[Array, '...']:
    """x·w over the last `n` dims of x and the first `n` of w: (*lead, *in), (*in, *out)."""
    return jax.lax.dot_general(
        x, w, ((tuple(range(x.ndim - n, x.ndim)), tuple(range(n))), ((), ()))
    )


def _forward(x: Array, w: Array, n: int) -> tuple[Array, tuple[Array, Array]]:
    return contract(x, w, n), (x, w)


def _backward(n: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, w = saved
    inputs, outputs = math.prod(w.shape[:n]), math.prod(w.shape[n:])
    # As matrices: XLA:CPU plans products of more dims worse (measured: 5 % of a small step). Rows
    # merge batch and length, which costs nothing while meshes split the batch alone.
    dy_MO, x_MI = dy.reshape(-1, outputs), x.reshape(-1, inputs)
    dx_MI = jax.lax.dot_general(dy_MO, w.reshape(inputs, outputs), (((1,), (1,)), ((), ())))
    dw_IO = jax.lax.dot_general(x_MI, dy_MO, (((0,), (0,)), ((), ())))
    return dx_MI.reshape(x.shape), dw_IO.reshape(w.shape)


contract.defvjp(_forward, _backward)


def contract_groups(
    x_ND: Float[Array, 'N D'], w_EDF: Float[Array, 'E D F'], sizes_E: Int[Array, ' E']
) -> Float[Array, 'N F']:
    """The rows of group e, which follow those of the groups before it, times w_e."""
    return jax.lax.ragged_dot(x_ND, w_EDF, sizes_E)
