"""Frozen weights in few bits: where a tree has a float weight, this has a node of `codes` and
`scales`, one scale for each block of codes.

A block lies within a row, the numbers behind a weight's first dim that stacks no matrices, so that
codes are sharded like the weight and scales like its first dim. Functions on trees leave alone what
is not such a node.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, UInt8

from bigmodel.errors import UserError
from bigmodel.specs import Range

# The 16 values of NF4 (Dettmers et al. 2023, appendix E).
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
CODES, SCALES = 'codes', 'scales'  # the names of a node's leaves


@dataclasses.dataclass(frozen=True)
class Code:
    """Numbers in [-1, 1] as integers; `per_item` codes share one along the last dim."""

    per_item: int
    encode: Callable[[Float[Array, '...']], Array]
    decode: Callable[[Array], Float[Array, '...']]


def _encode_nf4(x: Float[Array, '...']) -> UInt8[Array, '...']:
    codes = jnp.searchsorted(jnp.asarray((NF4[1:] + NF4[:-1]) / 2), x).astype(jnp.uint8)
    return codes[..., ::2] << 4 | codes[..., 1::2]


def _decode_nf4(codes: UInt8[Array, '...']) -> Float[Array, '...']:
    pairs = jnp.stack([codes >> 4, codes & 15], axis=-1)
    return jnp.asarray(NF4)[pairs.reshape(*codes.shape[:-1], -1)]


def _encode_int8(x: Float[Array, '...']) -> Int8[Array, '...']:
    return jnp.round(127 * x).astype(jnp.int8)


def _decode_int8(codes: Int8[Array, '...']) -> Float[Array, '...']:
    return codes.astype(jnp.float32) / 127


BITS = {4: Code(2, _encode_nf4, _decode_nf4), 8: Code(1, _encode_int8, _decode_int8)}
A_BITS = Range(lambda x: x in BITS, 'one of ' + ', '.join(map(str, BITS)))
_OF_DTYPE = {'uint8': 4, 'int8': 8}


def quantise(
    weight: Float[Array, '...'], block: int, bits: int, num_lead: int = 0, what: str = 'a weight'
) -> dict[str, Array]:
    """Codes and scales, the largest absolute value of each block; 4 bits are NF4, 8 evenly spaced.

    The first `num_lead` dims stack matrices. Raises UserError where blocks or codes do not fit.
    """
    *rows, row = *weight.shape[: num_lead + 1], math.prod(weight.shape[num_lead + 1 :])
    per_item = BITS[bits].per_item
    if row % block:
        raise UserError(
            f'model.adapter: block={block} does not divide the {row} numbers of a row of {what}; '
            f'set block={math.gcd(row, block)}'
        )
    if weight.shape[-1] % per_item:
        raise UserError(
            f'model.adapter: bits={bits} puts {per_item} codes into a byte, but the last dim of '
            f'{what} has {weight.shape[-1]}; set bits=8, or leave it out of where='
        )
    blocks = weight.astype(jnp.float32).reshape(*rows, row // block, block)
    scales = jnp.max(jnp.abs(blocks), axis=-1)
    shares = blocks / jnp.where(scales > 0, scales, 1)[..., None]
    return {CODES: BITS[bits].encode(shares.reshape(weight.shape)), SCALES: scales}


def dequantise(node: Mapping[str, Array]) -> Float[Array, '...']:
    """The float32 weight of codes and scales."""
    codes, scales = node[CODES], node[SCALES]
    shares = BITS[_OF_DTYPE[codes.dtype.name]].decode(codes)
    blocks = shares.reshape(*scales.shape, -1) * scales[..., None]
    return blocks.reshape(shares.shape)


def dequantised(params: Any) -> Any:
    """A tree with float weights alone."""
    if not isinstance(params, Mapping):
        return params
    if params.keys() == {CODES, SCALES}:
        return dequantise(params)
    return {name: dequantised(part) for name, part in params.items()}


def float_shapes(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes by path (boxed or not) of the tree that `dequantised` makes, with its sharding."""
    weights = _weights(flat)
    floats = {path: jax.tree.map(_float, flat[f'{path}/{CODES}']) for path in weights}
    return _without(flat, weights) | floats


def to_read(wanted: Mapping[str, Any], found: Container[str]) -> dict[str, Any]:
    """Shapes to read for `wanted` from a checkpoint that may have some of it as floats."""
    weights = [path for path in _weights(wanted) if path in found]
    floats = float_shapes(wanted)
    return _without(wanted, weights) | {path: floats[path] for path in weights}


def as_wanted(read: Mapping[str, Array], wanted: Mapping[str, Any]) -> dict[str, Array]:
    """What was read as `to_read` says, with floats quantised where they are wanted so."""
    weights = [path for path in _weights(wanted) if path in read]
    made = {path: x for path, x in read.items() if path not in weights}
    for path in weights:
        node = {name: wanted[f'{path}/{name}'] for name in (CODES, SCALES)}
        for name, x in _quantise_like(read[path], node).items():
            made[f'{path}/{name}'] = x
    return made


def place_in(found: Container[str], path: str) -> str:
    """Where a checkpoint has a parameter, or the float weight that it is made of."""
    return path if path in found else path.rpartition('/')[0]


def _quantise_like(weight: Array, node: Mapping[str, Any]) -> dict[str, Array]:
    scales = node[SCALES]
    return jax.jit(
        partial(
            quantise,
            block=math.prod(weight.shape) // math.prod(scales.shape),
            bits=_OF_DTYPE[node[CODES].dtype.name],
            num_lead=len(scales.shape) - 2,
        ),
        out_shardings={name: leaf.sharding for name, leaf in node.items()},
    )(weight)


def _weights(flat: Mapping[str, Any]) -> list[str]:
    paths = [path.removesuffix(f'/{CODES}') for path in flat if path.endswith(f'/{CODES}')]
    return [path for path in paths if f'{path}/{SCALES}' in flat]


def _without(flat: Mapping[str, Any], weights: list[str]) -> dict[str, Any]:
    gone = {f'{path}/{name}' for path in weights for name in (CODES, SCALES)}
    return {path: leaf for path, leaf in flat.items() if path not in gone}


def _float(codes: Any) -> jax.ShapeDtypeStruct:
    *rest, last = codes.shape
    shape = (*rest, last * BITS[_OF_DTYPE[codes.dtype.name]].per_item)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=codes.sharding)
