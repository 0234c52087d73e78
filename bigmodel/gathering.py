"""Weights that are split as rows are (FSDP): whole while they are used, their gradients in parts.

Left to itself, XLA may gather a weight in several shapes for the backward pass of one layer, and
sum over devices what each of them then has all of.
"""

from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.sharding import Sharding, active

Axes = Sequence[str | None]


def gathered(w: jax.Array, axes: Axes) -> jax.Array:
    """A weight as it is used: not split over the mesh axes that split rows.

    `axes` are its logical axes, () where it is left alone, as it is where rules split no weights.
    """
    sharding = active()
    if sharding is None or not _shared(sharding, axes):
        return w
    rows = sharding.mesh_axes('batch')
    kept = [tuple(a for a in sharding.mesh_axes(axis) if a not in rows) for axis in axes]
    place = NamedSharding(sharding.mesh, PartitionSpec(*(names or None for names in kept)))
    return jax.lax.with_sharding_constraint(w, place)


def scattered(dw: jax.Array, axes: Axes) -> jax.Array:
    """The gradient of what was gathered: a sum over all rows, of which a device keeps its part."""
    sharding = active()
    if sharding is None:
        return dw
    own = [f'gradients/{axis}' for axis in axes]
    axes = [o if o in sharding.rules else a for o, a in zip(own, axes, strict=True)]
    if not _shared(sharding, axes):
        return dw
    return jax.lax.with_sharding_constraint(dw, sharding.named(axes, dw.shape, 'gradient'))


def _shared(sharding: Sharding, axes: Axes) -> bool:
    """Whether a mesh axis splits rows, and these axes too."""
    rows = sharding.mesh_axes('batch')
    return any(name in rows for axis in axes for name in sharding.mesh_axes(axis))
