"""Rows that are split by length over devices, which stand in a ring."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from bigmodel.sharding import active


@dataclasses.dataclass(frozen=True)
class Ring:
    """The mesh axis over which rows are split `ways` ways, and the axes that split the batch.

    `mapped` are those over which the code is mapped.
    """

    axis: str
    ways: int
    batch: tuple[str, ...]
    mapped: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Of all rows that the code sees."""
        return (*self.batch, self.axis)


def ring() -> Ring | None:
    """The devices that share the rows of the active sharding, if rows are split."""
    sharding = active()
    names = sharding.mesh_axes('inner_length') if sharding else ()
    if not names:
        return None
    batch = sharding.mesh_axes('batch')
    return Ring(names[0], sharding.mesh.shape[names[0]], batch, sharding.mapped)


def on_ring(
    f: Callable[..., Any], axes: Sequence[Any], out_axes: Any, devices: Ring
) -> Callable[..., Any]:
    """`f` on each device's part of rows that are split by length; `f` itself moves what it needs.

    `axes` and `out_axes` are the logical axes of each array, as lists of tuples; () is for all of
    an array, or of a tree of them. Only batch and length are split by hand: heads stay XLA's
    business, and `f` sums over `Ring.axes` what it learns for all.
    """
    places = {'batch': devices.batch or None, 'inner_length': devices.axis, None: None}

    def spec(dims: Any) -> Any:
        if isinstance(dims, list):
            return [spec(d) for d in dims]
        return PartitionSpec(*(places[d] for d in dims))

    return jax.shard_map(
        f,
        mesh=active().mesh,
        in_specs=tuple(spec(list(axes))),
        out_specs=spec(out_axes),
        axis_names={*devices.axes, *devices.mapped},
        check_vma=False,
    )
