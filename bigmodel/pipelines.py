"""Schedules of a pipeline: at which tick which stage runs which layers on which microbatch."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from bigmodel.errors import UserError
from bigmodel.specs import NOT_NEGATIVE, Range

_SEVERAL = Range(lambda x: x > 1, 'at least 2')


@dataclasses.dataclass(frozen=True)
class GPipe:
    """A stage has successive layers, and microbatches pass once (Huang et al. 2019).

    `microbatches` is a multiple of the number of stages; 0: twice as many, where that divides the
    rows, else as many.
    """

    repeats: ClassVar[int] = 1
    microbatches: Annotated[int, NOT_NEGATIVE] = 0


@dataclasses.dataclass(frozen=True)
class Circular:
    """A stage has `repeats` groups of layers, and microbatches pass as often: idle `repeats` times
    less (Narayanan et al. 2021, §2.2). A step sends the weights there from where they lie, in order
    of layers, and their gradients back.
    """

    repeats: Annotated[int, _SEVERAL] = 2
    microbatches: Annotated[int, NOT_NEGATIVE] = 0


PIPELINES: Mapping[str, Any] = {'gpipe': GPipe, 'circular': Circular}


@dataclasses.dataclass(frozen=True)
class Plan:
    """`microbatches` through `stages`, `repeats` times each.

    They come in groups, of as many as there are stages: a group has passed all of the times before
    the next one enters, so that what leaves the last stage can at once enter the first one again.
    """

    stages: int
    repeats: int
    microbatches: int

    @property
    def groups(self) -> int:
        """Of microbatches."""
        return self.microbatches // self.stages

    @property
    def turns(self) -> int:
        """How often each stage works."""
        return self.microbatches * self.repeats

    @property
    def ticks(self) -> int:
        """How long the pipeline runs: the last stage starts `stages - 1` ticks after the first."""
        return self.turns + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of ticks in which a stage idles."""
        return (self.stages - 1) / self.ticks

    def place(self, turn: Any) -> tuple[Any, Any]:
        """Which pass of which microbatch a stage's turn is."""
        around = self.stages * self.repeats
        group, inside = turn // around, turn % around
        return inside // self.stages, group * self.stages + inside % self.stages

    def __str__(self) -> str:
        """'4 stages, 8 microbatches, 27.3 % bubble'."""
        passes = f' × {self.repeats} passes' if self.repeats > 1 else ''
        return (
            f'{self.stages} stages, {self.microbatches} microbatches{passes}, '
            f'{100 * self.bubble:.3g} % bubble'
        )


def plan_of(pipeline: GPipe | Circular, stages: int, ways: int, rows: int) -> Plan:
    """The plan for `rows` rows, which each stage splits over `ways` devices.

    Raises UserError for a number of microbatches that divides neither.
    """
    given = pipeline.microbatches
    tried = (given,) if given else (2 * stages, stages)
    for microbatches in tried:
        if microbatches % stages:
            raise UserError(
                f'sharding.pipeline has microbatches={microbatches}, which is no multiple of the '
                f'{stages} stages of mesh axis pipeline; take {_next(microbatches, stages)}'
            )
        if rows % (microbatches * ways) == 0:
            return Plan(stages, pipeline.repeats, microbatches)
    raise UserError(
        f'{rows} rows cannot be split into {tried[-1]} microbatches of a pipeline × {ways} devices '
        f'that split each; make data.batch_size (over accumulate) a multiple of {tried[-1] * ways}'
        + (', or change microbatches of sharding.pipeline' if given else '')
    )


def _next(microbatches: int, stages: int) -> int:
    return -(-microbatches // stages) * stages
