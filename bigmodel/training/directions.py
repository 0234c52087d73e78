"""Directions: what each optimizer makes of a gradient, for a unit learning rate.

An entry of `OPTIMIZERS` takes the logical axes of the parameters and its own arguments, and gives
an optax transformation. Clipping, decay, schedule and multipliers are added in `optimizers.py`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float
from optax import contrib

from bigmodel.specs import POSITIVE, SHARE

Direction = optax.GradientTransformation
Scalar = float | Float[Array, '']  # a float in a spec, an array inside the step
Share = Annotated[Scalar, SHARE]
Positive = Annotated[Scalar, POSITIVE]


def adamw(axes: Any, *, b1: Share = 0.9, b2: Share = 0.95, eps: Positive = 1e-8) -> Direction:
    """Adam's direction (Kingma & Ba 2015; decay decoupled as in Loshchilov & Hutter 2019)."""
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def lion(axes: Any, *, b1: Share = 0.9, b2: Share = 0.99) -> Direction:
    """The sign of an interpolated momentum (Chen et al. 2023); wants a smaller learning rate."""
    return optax.scale_by_lion(b1=b1, b2=b2)


def sgd(axes: Any, *, momentum: Share = 0.9, nesterov: bool = False) -> Direction:
    """Gradient descent with momentum."""
    return optax.trace(decay=momentum, nesterov=nesterov)


def adafactor(
    axes: Any,
    *,
    decay_rate: Positive = 0.8,
    clipping: Positive = 1.0,
    min_dim: Annotated[int, POSITIVE] = 128,
) -> Direction:
    """Factored second moments (Shazeer & Stern 2018), updates clipped to RMS `clipping`.

    Each layer's weight is one matrix, from inputs to outputs.
    """
    factored = optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=min_dim)
    matrix = optax.chain(factored, optax.clip_by_block_rms(clipping))
    return _per_layer(axes, matrix, min_dim)


def muon(
    axes: Any,
    *,
    beta: Share = 0.95,
    rms: Positive = 0.2,
    b1: Share = 0.9,
    b2: Share = 0.95,
    eps: Positive = 1e-8,
) -> Direction:
    """Orthogonalised momentum for the matrices of blocks (Jordan et al. 2024), Adam for the rest.

    Updates are scaled to an RMS of `rms`, so that AdamW's learning rates carry over (Liu et al.
    2025, §2.2).
    """
    dims = jax.tree.map(_matrix_dims, _of_blocks(axes), is_leaf=_is_axes)
    kinds = jax.tree.map(lambda d: 'muon' if _is_dims(d) else 'adam', dims, is_leaf=_is_slot)
    matrices = optax.chain(
        contrib.scale_by_muon(beta=beta, weight_dimension_numbers=lambda _: dims),
        _scale_to_rms(dims, rms),
    )
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.partition({'muon': matrices, 'adam': adam}, kinds)


OPTIMIZERS = {'adamw': adamw, 'lion': lion, 'sgd': sgd, 'adafactor': adafactor, 'muon': muon}


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(a, str) for a in x)


def _is_dims(x: Any) -> bool:
    return isinstance(x, contrib.MuonDimensionNumbers)


def _is_slot(x: Any) -> bool:
    return _is_dims(x) or isinstance(x, optax.MaskedNode)


def _of_blocks(axes: Any) -> Any:
    """The axes of the weights of blocks, and () for all others.

    Layers that share their weights, and those of tokens ahead, are not stacked on 'layers'.
    """

    def one(path: tuple, names: tuple[str, ...]) -> tuple[str, ...]:
        inside = any(str(getattr(key, 'key', '')).startswith('block_') for key in path)
        return names if inside or names[:1] == ('layers',) else ()

    return jax.tree_util.tree_map_with_path(one, axes, is_leaf=_is_axes)


def _matrix_dims(axes: tuple[str, ...]) -> contrib.MuonDimensionNumbers | optax.MaskedNode:
    """Which dims of a block's weight are inputs and outputs; a MaskedNode for everything else.

    Weights of layers may be stacked on 'layers', those of experts also on 'experts'; a projection
    into the residual stream ends in 'embed' and contracts all other dims, any other one contracts
    'embed' first.
    """
    first = _stacked(axes)
    if len(axes) < first + 2 or 'embed' not in axes:
        return optax.MaskedNode()
    if axes[-1] == 'embed':
        return contrib.MuonDimensionNumbers(tuple(range(first, len(axes) - 1)), (len(axes) - 1,))
    return contrib.MuonDimensionNumbers((first,), tuple(range(first + 1, len(axes))))


def _stacked(axes: tuple[str, ...]) -> int:
    """How many leading dims number matrices: layers, and the experts of a layer."""
    return len(list(itertools.takewhile(lambda axis: axis in ('layers', 'experts'), axes)))


def _per_layer(axes: Any, direction: Direction, min_dim: int) -> Direction:
    """Applies `direction` to each weight of each layer alone, as a matrix from inputs to outputs.

    Each expert of a layer has a matrix of its own. Weights with fewer inputs or outputs than
    `min_dim` are left in their shape, and so are those outside of blocks.
    """

    axes = _of_blocks(axes)

    def prepare(names: tuple[str, ...], x: jax.Array) -> jax.Array:
        dims = _matrix_dims(names)
        if not _is_dims(dims):
            return x
        rows = math.prod(x.shape[d] for d in dims.reduction_axis)
        columns = math.prod(x.shape[d] for d in dims.output_axis)
        stack = x.shape[: _stacked(names)]
        return x.reshape(*stack, rows, columns) if min(rows, columns) >= min_dim else x

    def lift(names: tuple[str, ...], function: Callable) -> Callable:
        for _ in range(_stacked(names)):
            function = jax.vmap(function)
        return function

    def init_one(names: tuple[str, ...], p: Any) -> Any:
        return lift(names, direction.init)(prepare(names, p))

    def update_one(names: tuple[str, ...], g: Any, state: Any, p: Any) -> Any:
        new, state = lift(names, direction.update)(prepare(names, g), state, prepare(names, p))
        return _Updated(new.reshape(g.shape), state)

    def init(params: Any) -> Any:
        return jax.tree.map(init_one, axes, params, is_leaf=_is_axes)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        both = jax.tree.map(update_one, axes, grads, state, params, is_leaf=_is_axes)
        pick = functools.partial(jax.tree.map, is_leaf=lambda x: type(x) is _Updated)
        return pick(lambda u: u.update, both), pick(lambda u: u.state, both)

    return Direction(init, update)


class _Updated(NamedTuple):
    update: Any
    state: Any


def _scale_to_rms(dims: Any, rms: Scalar) -> Direction:
    def scale(update: Any, dim: contrib.MuonDimensionNumbers) -> Any:
        rows = math.prod(update.shape[d] for d in dim.reduction_axis)
        columns = math.prod(update.shape[d] for d in dim.output_axis)
        return update * (rms * math.sqrt(max(rows, columns)))

    return optax.stateless(
        lambda updates, params: jax.tree.map(scale, updates, dims, is_leaf=_is_dims)
    )
