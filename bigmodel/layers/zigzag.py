"""Rows in 2n parts over n devices: in order, or so that each device has an early and a late one.

Device d of a row in order has the parts 2d and 2d + 1; in zigzag order d and 2n − 1 − d. With a
causal mask late parts look at more keys than early ones, so only in zigzag order do all devices
have as much to do.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def halves(
    device: Int[Array, ''], ways: int, zigzag: bool
) -> tuple[Int[Array, ''], Int[Array, '']]:
    """The two parts of a device, in zigzag order or in order."""
    return (device, 2 * ways - 1 - device) if zigzag else (2 * device, 2 * device + 1)


def joined(x_BLHK: Float[Array, 'B L H K'], groups: int) -> Float[Array, '2 B G M K']:
    """Halves of a device's tokens, with the heads that share a key head as rows of one product."""
    B, L, H, K = x_BLHK.shape
    x = x_BLHK.reshape(B, 2, L // 2, groups, H // groups, K).transpose(1, 0, 3, 4, 2, 5)
    return x.reshape(2, B, groups, -1, K)


def to_zigzag(x: Float[Array, '2 *s'], axis: str, ways: int) -> Float[Array, '2 *s']:
    """From the parts in order to those in zigzag order; within a `shard_map` over `axis`."""
    even, odd = (jax.lax.ppermute(x[i], axis, _moves(i, ways)) for i in range(2))
    # An early part of an even device is even, and a late one odd.
    here = jax.lax.axis_index(axis) % 2 == 0
    return jnp.stack([jnp.where(here, even, odd), jnp.where(here, odd, even)])


def from_zigzag(x: Float[Array, '2 *s'], axis: str, ways: int) -> Float[Array, '2 *s']:
    """The inverse of `to_zigzag`."""
    here = jax.lax.axis_index(axis) % 2 == 0
    both = jnp.where(here, x[0], x[1]), jnp.where(here, x[1], x[0])
    back = ([(b, a) for a, b in _moves(i, ways)] for i in range(2))
    return jnp.stack([jax.lax.ppermute(h, axis, m) for h, m in zip(both, back, strict=True)])


def _moves(half: int, ways: int) -> list[tuple[int, int]]:
    """(from, to) of the first or second part of every device in order."""
    parts = ((d, 2 * d + half) for d in range(ways))
    return [(d, part if part < ways else 2 * ways - 1 - part) for d, part in parts]
