"""Adapters: functions on the parameter tree, so that no layer knows of them.

An adapter adds parameters under 'adapter/', at the paths of the weights that it changes, and makes
of all the tree that the model was built for. Adapted weights are frozen by `optimizer.train`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models.quantised import A_BITS, CODES, SCALES, dequantised, quantise
from bigmodel.sharding import is_box
from bigmodel.specs import POSITIVE, SHARE

KEY = 'adapter'
LEADING = ('layers', 'experts')  # dims that stack matrices


@dataclasses.dataclass(frozen=True)
class Adapter:
    """No adapter: the parameters are the model's own."""

    def init(self, boxed: Any, key: jax.Array) -> Any:
        """All parameters with their logical axes, those of the adapter among them."""
        return boxed

    def stored(self, params: Any) -> Any:
        """Parameters as this adapter keeps them, from such or from float ones."""
        return params

    def merge(self, params: Any, key: jax.Array | None = None) -> Any:
        """The model's own parameters; `key` turns dropout on."""
        return params


@dataclasses.dataclass(frozen=True)
class Lora(Adapter):
    """W + (alpha/rank)·A·B for the weights whose path matches `where` (Hu et al. 2021).

    A is drawn with variance 1/fan-in, B starts at 0. `dropout` leaves out input features of A·B,
    the same ones for all tokens of a step. Products are with the merged weight: a step costs what
    full fine-tuning's does, but for the optimizer.
    """

    rank: Annotated[int, POSITIVE] = 8
    alpha: Annotated[float, POSITIVE] = 16.0
    where: str = '.*/mixer/.*'
    dropout: Annotated[float, SHARE] = 0.0

    def init(self, boxed: Any, key: jax.Array) -> Any:
        flat = _boxes(boxed)
        chosen = [path for path in flat if path.endswith('/weight') and re.match(self.where, path)]
        if not chosen:
            some = ', '.join([path for path in flat if path.endswith('/weight')][:4])
            raise UserError(
                f'model.adapter: where={self.where!r} matches no weight; there are: {some}, …'
            )
        added = {
            path: self._new(flat[path], jax.random.fold_in(key, i)) for i, path in enumerate(chosen)
        }
        return {**boxed, KEY: params_lib.nest(added)}

    def merge(self, params: Any, key: jax.Array | None = None) -> Any:
        own = flax.traverse_util.flatten_dict(params.get(KEY, {}), sep='/')
        base = {name: part for name, part in params.items() if name != KEY}
        if not own:  # an export, whose weights are merged
            return base
        flat = flax.traverse_util.flatten_dict(base, sep='/')
        for i, path in enumerate(_adapted(own)):
            factors = {n.rpartition('/')[2]: x for n, x in own.items() if n.startswith(f'{path}/')}
            here = None if key is None else jax.random.fold_in(key, i)
            flat[path] = self._merged(flat[path], factors, here)
        return params_lib.nest(flat)

    def _new(self, box: Any, key: jax.Array) -> dict[str, Any]:
        lead, inside, out = _dims(box.names, box.value.shape)
        fan_in = math.prod(n for _, n in inside)
        normal = nn.initializers.normal(1 / math.sqrt(fan_in))
        rank = ('rank', self.rank)
        return {
            'down': _param(normal, key, (*lead, *inside, rank)),
            'up': _param(nn.initializers.zeros, key, (*lead, rank, *out)),
        }

    def _merged(self, weight: Array, factors: dict[str, Array], key: jax.Array | None) -> Array:
        return weight + self._delta(weight, factors, key)

    def _delta(self, weight: Array, factors: dict[str, Array], key: jax.Array | None) -> Array:
        down, up = factors['down'], factors['up']
        num_lead = down.ndim + up.ndim - 2 - weight.ndim
        lead, rank = weight.shape[:num_lead], down.shape[-1]
        if key is not None and self.dropout:
            kept = jax.random.bernoulli(key, 1 - self.dropout, (*down.shape[:-1], 1))
            down = down * kept / (1 - self.dropout)
        flat_down = down.reshape(*lead, -1, rank)
        flat_up = up.reshape(*lead, rank, -1)
        product = jnp.einsum('...ir,...ro->...io', flat_down, flat_up)
        return (self.alpha / rank) * product.reshape(weight.shape)


@dataclasses.dataclass(frozen=True)
class Dora(Lora):
    """LoRA of the directions of a weight's columns, whose lengths are learned apart from them
    (Liu et al. 2024): m·V/‖V‖ with V = W + (alpha/rank)·A·B.

    m is ‖W‖ times a factor that starts at 1. As in the paper's §4.3, no gradient flows into ‖V‖.
    """

    def _new(self, box: Any, key: jax.Array) -> dict[str, Any]:
        lead, _, out = _dims(box.names, box.value.shape)
        ones = _param(nn.initializers.ones, key, (*lead, *out))
        return super()._new(box, key) | {'factor': ones}

    def _merged(self, weight: Array, factors: dict[str, Array], key: jax.Array | None) -> Array:
        moved = weight + self._delta(weight, factors, key)
        num_out = weight.ndim - factors['down'].ndim + 1
        num_lead = factors['factor'].ndim - num_out
        inside = tuple(range(num_lead, weight.ndim - num_out))
        length = jax.lax.stop_gradient(_norm(moved, inside))
        factor = jnp.expand_dims(factors['factor'], inside)
        return factor * (_norm(weight, inside) / length) * moved


@dataclasses.dataclass(frozen=True)
class Qlora(Lora):
    """LoRA whose adapted weights are kept in `bits` bits, each `block` of them with a scale
    (Dettmers et al. 2023, without their second quantisation, that of the scales).

    4 bits are NF4, 8 evenly spaced. What is kept is small; a step makes float weights of all of it.
    """

    block: Annotated[int, POSITIVE] = 64
    bits: Annotated[int, A_BITS] = 4

    def init(self, boxed: Any, key: jax.Array) -> Any:
        own = super().init(boxed, key)[KEY]
        flat = _boxes(boxed)
        for path in _adapted(_boxes(own)):
            flat[path] = self._boxed_node(flat[path], path)
        return {**params_lib.nest(flat), KEY: own}

    def stored(self, params: Any) -> Any:
        flat = flax.traverse_util.flatten_dict(params, sep='/')
        own = flax.traverse_util.flatten_dict(params[KEY], sep='/')
        for path in _adapted(own):
            if path in flat:
                weight = flat[path]
                num_lead = own[f'{path}/down'].ndim + own[f'{path}/up'].ndim - 2 - weight.ndim
                flat[path] = quantise(weight, self.block, self.bits, num_lead, path)
        return params_lib.nest(flat)

    def merge(self, params: Any, key: jax.Array | None = None) -> Any:
        return super().merge(dequantised(params), key)

    def _boxed_node(self, box: Any, path: str) -> dict[str, Any]:
        lead, _, _ = _dims(box.names, box.value.shape)
        node = quantise(box.value, self.block, self.bits, len(lead), path)
        names = {CODES: box.names, SCALES: (*box.names[: len(lead) + 1], 'blocks')}
        return {k: nn.LogicallyPartitioned(x, names[k]) for k, x in node.items()}


ADAPTERS: dict[str, Callable[..., Adapter]] = {
    'none': Adapter,
    'lora': Lora,
    'dora': Dora,
    'qlora': Qlora,
}

Dims = tuple[tuple[str, int], ...]


def _dims(names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[Dims, Dims, Dims]:
    """The dims of a weight that stack matrices, those contracted with x, and those of the result.

    Weights that read the residual stream contract its one dim; the others end in one.
    """
    dims = tuple(zip(names, shape, strict=True))
    lead = tuple(dim for dim in dims if dim[0] in LEADING)
    rest = dims[len(lead) :]
    cut = 1 if rest[0][0] == 'embed' else len(rest) - 1
    return lead, rest[:cut], rest[cut:]


def _param(init: Callable[..., Array], key: jax.Array, dims: Dims) -> nn.LogicallyPartitioned:
    names, shape = zip(*dims, strict=True)
    return nn.with_logical_partitioning(init, names)(key, shape, jnp.float32)


def _norm(weight: Array, inside: tuple[int, ...]) -> Float[Array, '...']:
    squares = jnp.square(weight.astype(jnp.float32))
    return jnp.sqrt(jnp.sum(squares, axis=inside, keepdims=True))


def _adapted(own: Iterable[str]) -> list[str]:
    """The paths of the weights that an adapter with parameters of these paths changes."""
    return list(dict.fromkeys(path.rpartition('/')[0] for path in own))


def _boxes(boxed: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
    return {params_lib.path_of(path): box for path, box in leaves}
