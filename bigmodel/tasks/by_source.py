"""The metrics of a batch as a whole, and of the rows of each source of a mixture."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from bigmodel.data.mixed import ORIGIN
from bigmodel.metrics import Metrics
from bigmodel.tasks.recorded import Recording
from bigmodel.tasks.task import Batch, BoundModel, Judged, Task


@dataclasses.dataclass(frozen=True)
class BySource:
    """A task's metrics, and 'METRIC/SOURCE' of the rows of each source, which add up to them.

    They are those of a batch in which all other rows are not `valid`; the model is computed once.
    What layers add to the loss is in the loss of the whole alone.
    """

    task: Task
    names: tuple[str, ...]

    def judge(
        self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        once = Recording(model)
        found, rows = self.task.judge(once.bound, batch, dropout_key)
        origin = batch[ORIGIN]
        valid = batch.get('valid', jnp.ones(origin.shape, jnp.float32))
        for number, name in enumerate(self.names):
            once.again()
            own = {**batch, 'valid': valid * (origin == number)}
            theirs = self.task(once.bound, own, dropout_key)
            found |= {f'{metric}/{name}': mean for metric, mean in theirs.items()}
        return found, rows


def by_source(task: Task, names: Iterable[str]) -> Task | BySource:
    """`task`, with metrics of each source of a mixture; no names: there is none."""
    names = tuple(names)
    return BySource(task, names) if names else task
