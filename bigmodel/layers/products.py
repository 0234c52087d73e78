"""Products of activations with weights: all of them go through the three functions here.

The backward pass of `contract` is written out, because autodiff asks for the weight's gradient as
dyᵀ·x and a transpose: XLA:CPU then fuses everything that made dy into the transposing copy and
recomputes it with strided reads (measured: 30 % of a small model's step). Contracting in the order
below needs no transpose on any backend. Forward-mode differentiation through it is not defined.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigmodel.gathering import gathered, scattered
from bigmodel.rings import ring


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def contract(
    x: Float[Array, '...'], w: Float[Array, '...'], n: int, axes: tuple[str | None, ...] = ()
) -> Float[Array, '...']:
    """x·w over the last `n` dims of x and the first `n` of w: (*lead, *in), (*in, *out).

    `axes` are the logical axes of w where that may be split as the rows of x are: each pass gathers
    it for itself, and nothing keeps it whole between them.
    """
    return _product(x, gathered(w, axes), n)


def _product(x: Array, w: Array, n: int) -> Array:
    over = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
    return jax.lax.dot_general(x, w, (over, ((), ())))


def _forward(
    x: Array, w: Array, n: int, axes: tuple[str | None, ...]
) -> tuple[Array, tuple[Array, Array]]:
    # Not `contract`, in which policies of recomputation see no product.
    return _product(x, gathered(w, axes), n), (x, w)


def _backward(
    n: int, axes: tuple[str | None, ...], saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, w = saved
    w = gathered(w, axes)
    dx, dw = (_backward_in_place if ring() else _backward_merged)(n, x, w, dy)
    return dx, scattered(dw, axes)


def _backward_merged(n: int, x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
    inputs, outputs = math.prod(w.shape[:n]), math.prod(w.shape[n:])
    # As matrices: XLA:CPU plans products of more dims worse (measured: 5 % of a small step). Rows
    # merge batch and length, which costs nothing where meshes split the batch alone.
    dy_MO, x_MI = dy.reshape(-1, outputs), x.reshape(-1, inputs)
    dx_MI = jax.lax.dot_general(dy_MO, w.reshape(inputs, outputs), (((1,), (1,)), ((), ())))
    dw_IO = jax.lax.dot_general(x_MI, dy_MO, (((0,), (0,)), ((), ())))
    return dx_MI.reshape(x.shape), dw_IO.reshape(w.shape)


def _backward_in_place(n: int, x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
    """The same with all dims apart: of rows that are split, XLA would gather what is merged."""
    lead, out = tuple(range(x.ndim - n)), w.ndim - n
    over_out = (tuple(range(dy.ndim - out, dy.ndim)), tuple(range(n, w.ndim)))
    dx = jax.lax.dot_general(dy, w, (over_out, ((), ())))
    return dx, jax.lax.dot_general(x, dy, ((lead, lead), ((), ())))


contract.defvjp(_forward, _backward)


def contract_each(
    x_BEPD: Float[Array, 'B E P D'], w_EDF: Float[Array, 'E D F']
) -> Float[Array, 'B E P F']:
    """P rows for each of E matrices, in each of B."""
    B, E, P, D = x_BEPD.shape
    # As one product a matrix: three quarters of the time of B·E small ones on a CPU.
    x_ERD = x_BEPD.swapaxes(0, 1).reshape(E, B * P, D)
    y_ERF = jnp.einsum('erd,edf->erf', x_ERD, w_EDF)
    return y_ERF.reshape(E, B, P, -1).swapaxes(0, 1)


def contract_groups(
    x_ND: Float[Array, 'N D'], w_EDF: Float[Array, 'E D F'], sizes_E: Int[Array, ' E']
) -> Float[Array, 'N F']:
    """The rows of group e, which follow those of the groups before it, times w_e.

    XLA:CPU would multiply all rows with all matrices (measured for 4,096 rows of 128 to 192
    features, with gradients: 15 × the time of the blocks below for 8 groups, 24 × for 32).
    """
    return jax.lax.platform_dependent(
        x_ND, w_EDF, sizes_E, cpu=in_blocks, default=jax.lax.ragged_dot
    )


def in_blocks(
    x_ND: Array, w_EDF: Array, sizes_E: Array, each: Callable[[Array, Array], Array] | None = None
) -> Array:
    """Pads every group to whole blocks of rows, each of which has one matrix; `each` multiplies P
    blocks with theirs (None: as they are).

    Blocks hold a quarter of a mean group, so that padding adds at most a quarter of the work.
    """
    rows, groups = x_ND.shape[0], w_EDF.shape[0]
    size = max(8, rows // (4 * groups))
    blocks = -(-rows // size) + groups  # each group leaves less than one block unfilled
    blocks_E = -(-sizes_E // size)
    shift_E = (jnp.cumsum(blocks_E) - blocks_E) * size - (jnp.cumsum(sizes_E) - sizes_E)
    each_E = jnp.arange(groups)
    place_N = jnp.arange(rows) + jnp.repeat(shift_E, sizes_E, total_repeat_length=rows)
    empty = jnp.zeros((blocks * size, x_ND.shape[1]), x_ND.dtype)
    once = {'unique_indices': True, 'mode': 'promise_in_bounds'}
    blocks_PRD = empty.at[place_N].set(x_ND, **once).reshape(blocks, size, -1)
    w_PDF = w_EDF[jnp.repeat(each_E, blocks_E, total_repeat_length=blocks)]
    y_PRF = each(blocks_PRD, w_PDF) if each else jnp.einsum('prd,pdf->prf', blocks_PRD, w_PDF)
    return y_PRF.reshape(blocks * size, -1).at[place_N].get(**once)
