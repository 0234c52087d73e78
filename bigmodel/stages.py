"""The stages of a pipeline on the active mesh: who has which rows and layers, and how they move.

All are moves of one program over the whole mesh: a dim of stages is split over mesh axis pipeline,
and what shifts entries of that dim sends them from stage to stage (Xu et al. 2021, GSPMD, §3.3).
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from bigmodel.pipelines import Plan
from bigmodel.rules import WEIGHTS
from bigmodel.sharding import ROWS, Sharding, active, under

AXIS = 'pipeline'


@dataclasses.dataclass(frozen=True)
class Stages:
    """The plan of a batch, and what holds within a stage.

    Arrays of stages have two leading dims, over which the code of one stage is mapped: a stage, and
    an entry for those of its devices that have rows of their own and the same weights. Numbers of
    stages have the first alone.
    """

    plan: Plan
    inside: Sharding

    @property
    def rows(self) -> tuple[str, ...]:
        """The mesh axes of the second dim."""
        return self.inside.mapped[1:]

    @property
    def ways(self) -> int:
        """The size of the second dim."""
        return math.prod(self.inside.mesh.shape[axis] for axis in self.rows)

    def map(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """`f` of every stage on its arrays, and as the last argument on its numbers.

        In it `axis_index(ROWS)` counts the second dim.
        """

        def within(*args: Any) -> Any:
            with under(self.inside):
                return f(*args)

        def of_stage(*args: Any) -> Any:
            in_axes = (*[0] * (len(args) - 1), None)
            names = self.rows or None
            return jax.vmap(within, in_axes, axis_name=ROWS, spmd_axis_name=names)(*args)

        return jax.vmap(of_stage, spmd_axis_name=AXIS)

    def own(self, x: Any) -> Any:
        """A tree of arrays or numbers of stages, each on the devices that it is of."""
        return jax.tree.map(lambda a: self._place(a, (AXIS,), self.rows), x)

    def queued(self, x: Array) -> Array:
        """Rows (B, …) -> (*stages, groups, rows, …): of each group of microbatches one a stage.

        Each device keeps its own rows.
        """
        rest = self.inside.batch_ways
        split = x.reshape(self.plan.stages, self.ways, rest, self.plan.groups, -1, *x.shape[1:])
        rows = split.swapaxes(2, 3).reshape(*split.shape[:2], self.plan.groups, -1, *x.shape[1:])
        return self._place(rows, (AXIS,), self.rows, (), self.inside.mesh_axes('batch'))

    def unqueued(self, x: Array) -> Array:
        """The inverse of `queued`."""
        split = x.reshape(*x.shape[:3], self.inside.batch_ways, -1, *x.shape[4:])
        return split.swapaxes(2, 3).reshape(-1, *x.shape[4:])

    def everywhere(self, x: Array) -> Array:
        """Rows (B, …) -> (microbatches, ways, rows, …), all on every stage: for what is small."""
        grouped = jnp.moveaxis(self.queued(x), 2, 0)
        every = grouped.reshape(self.plan.microbatches, *grouped.shape[2:])
        return self._place(every, (), self.rows, self.inside.mesh_axes('batch'))

    def block(self, microbatch: Array, way: Array) -> Array:
        """Which rows these are, counted in the order of the batch: the same on any number of stages
        that have them in as many blocks.
        """
        group, stage = microbatch // self.plan.stages, microbatch % self.plan.stages
        return (stage * self.ways + way) * self.plan.groups + group

    def weights(self, x: Array) -> Array:
        """Layers (N, …) in order -> (*stages, repeats, layers, …) as the plan has them."""
        repeats, stages = self.plan.repeats, self.plan.stages
        in_turn = x.reshape(repeats, stages, -1, *x.shape[1:]).swapaxes(0, 1)
        copies = jnp.broadcast_to(in_turn[:, None], (stages, self.ways, *in_turn.shape[1:]))
        return self.own(copies)

    def in_order(self, x: Array) -> Array:
        """Means over the second dim, in the order of layers: the inverse of `weights`."""
        return jnp.mean(x, 1).swapaxes(0, 1).reshape(-1, *x.shape[4:])

    def _place(self, x: Array, *axes: tuple[str, ...]) -> Array:
        """Constrains the first dims to these mesh axes, and leaves the others to XLA."""
        named = [names or None for names in axes[: x.ndim]]
        spec = PartitionSpec(*named, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - len(named)))
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.inside.mesh, spec))


def shifted(x: Array, by: int) -> Array:
    """An array of stages, each entry `by` stages further, around."""
    return _shifted(by, x)


# By itself autodiff would take the shift apart, and send both parts.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shifted(by: int, x: Array) -> Array:
    return jnp.roll(x, by, 0)


_shifted.defvjp(lambda by, x: (_shifted(by, x), None), lambda by, _, dy: (_shifted(-by, dy),))


def stages(rows: int, layers: int) -> Stages | None:
    """The pipeline that so many rows go through, if the active sharding splits stacked layers."""
    sharding = active()
    if sharding is None or sharding.ways('layers') == 1:
        return None
    return Stages(sharding.plan(rows, layers), _inside(sharding))


def _inside(sharding: Sharding) -> Sharding:
    """What holds where code is mapped over stages, which share their rows, and over mesh axes that
    split rows but no weights: a device's gradients are then summed over its microbatches first, and
    over devices once.
    """
    rows = tuple(axis for axis in sharding.mesh_axes('batch') if axis != AXIS)
    weights = {a for name in WEIGHTS for a in sharding.mesh_axes(name)}
    count = next((i for i, axis in enumerate(rows) if axis in weights), len(rows))
    rules = dict(sharding.rules) | {'batch': rows[count:], 'layers': None}
    return dataclasses.replace(sharding, rules=rules, mapped=(AXIS, *rows[:count]))
