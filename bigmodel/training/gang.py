"""States of several runs side by side, and the one step that changes all of them.

Over several devices they are split by the mesh axis `arm`, and nothing is communicated.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bigmodel.data.pipeline import Batch
from bigmodel.sharding import inactive
from bigmodel.tasks.by_source import by_source
from bigmodel.training.setup import Setup
from bigmodel.training.state import State
from bigmodel.training.step import make_train_step

# The runs' dim of every array; companions are the same for all and have none.
AXES = State(0, 0, 0, None, 0)


class Gang:
    """The program of runs that differ in nothing but its inputs (programs.py).

    Where they are no multiple of the devices, the first run fills the rest, computed in vain.
    """

    def __init__(self, setups: Sequence[Setup]) -> None:
        first = setups[0]
        assert all(setup.programs is first.programs for setup in setups), 'of one program'
        devices = list(first.sharding.mesh.devices.flat)
        self.setups = [*setups, *[first] * (-len(setups) % len(devices))]
        self._mesh = Mesh(np.array(devices), ('arm',), axis_types=(AxisType.Auto,))
        self._split = NamedSharding(self._mesh, PartitionSpec('arm'))
        self._everywhere = NamedSharding(self._mesh, PartitionSpec())
        self.hparams = self._side_by_side([setup.hparams for setup in self.setups])

    def states(self, states: Sequence[State]) -> State:
        """The states of the runs side by side; companions are those of the first."""
        filled = [*states, *states[:1] * (len(self.setups) - len(states))]
        companions = jax.device_put(states[0].companions, self._everywhere)
        stacked = self._side_by_side([state.replace(companions={}) for state in filled])
        return stacked.replace(companions=companions)

    def state(self, states: State, index: int) -> State:
        """The state of one run, where its own programs expect it."""
        first = self.setups[0]
        places = jax.tree.map(lambda a: a.sharding, first.abstract.replace(companions={}))
        take = first.programs.once(
            ('one of', len(self.setups)),
            lambda: jax.jit(lambda t, i: jax.tree.map(lambda x: x[i], t), out_shardings=places),
        )
        companions = jax.tree.map(
            lambda x, a: jax.device_put(x, a.sharding), states.companions, first.abstract.companions
        )
        return take(states.replace(companions={}), index).replace(companions=companions)

    def batch(self, starts: Sequence[int], number: int) -> Batch:
        """The batches of all runs, `number` steps after those that they start with."""
        pairs = zip(self.setups[: len(starts)], starts, strict=True)
        each = [setup.data.batches(start + number) for setup, start in pairs]
        each += each[:1] * (len(self.setups) - len(each))
        return {name: np.stack([batch[name] for batch in each]) for name in each[0]}

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """Batches on their devices."""
        return {name: jax.device_put(rows, self._split) for name, rows in batch.items()}

    def compiled(self, states: State) -> Any:
        """(states, batches, hparams) -> (states, metrics), which reuses the memory of `states`."""
        return self.setups[0].programs.once(
            ('step of', len(self.setups)), partial(self._compile, states)
        )

    def _compile(self, states: State) -> Any:
        first = self.setups[0]
        task = by_source(first.task, first.data.parts)
        one = make_train_step(
            first.model, task, first.optimizer, first.config.accumulate, first.companion_models
        )
        split, whole = PartitionSpec('arm'), PartitionSpec()
        specs = State(split, split, split, whole, split)
        # By hand, so that nothing is communicated, also where XLA cannot split (Pallas kernels).
        step = jax.shard_map(
            jax.vmap(one, in_axes=(AXES, 0, 0), out_axes=(AXES, 0)),
            mesh=self._mesh,
            in_specs=(specs, split, split),
            out_specs=(specs, split),
            check_vma=False,
        )
        places = jax.tree.map(lambda x: x.sharding, states)
        batch = self.put(self.batch([0], 0))
        # One run is on one device: within the step there is nothing to place.
        with inactive(), jax.set_mesh(self._mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(places, self._split))
            return jitted.lower(states, batch, self.hparams).compile()

    def _side_by_side(self, trees: Sequence[Any]) -> Any:
        def stack(*trees: Any) -> Any:
            return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)

        key = ('stack', len(trees))
        make = partial(jax.jit, stack, out_shardings=self._split)
        return self.setups[0].programs.once(key, make)(*trees)
