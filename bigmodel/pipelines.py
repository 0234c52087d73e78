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


GPIPE = GPipe()
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


def plan_of(pipeline: GPipe | Circular, stages: int, ways: int, rows: int, layers: int) -> Plan:
    """The plan for `layers` layers (or repetitions of their pattern) and `rows` rows, which `ways`
    devices of each stage split.

    Raises UserError for layers or rows that do not divide.
    """
    parts = stages * pipeline.repeats
    if layers % parts:
        passes = f' × {pipeline.repeats} repeats of sharding.pipeline' if parts > stages else ''
        raise UserError(
            f'{layers} layers (or repetitions of model.pattern) cannot be split into {stages} '
            f'stages of mesh axis pipeline{passes}; choose a depth that {parts} divides, or fewer'
        )
    if stages % pipeline.repeats and pipeline.repeats % stages:
        raise UserError(
            f'repeats={pipeline.repeats} of sharding.pipeline and the {stages} stages of mesh axis '
            f'pipeline: one must divide the other, else weights would be gathered, not sent'
        )
    given = pipeline.microbatches
    if given % stages:
        raise UserError(
            f'microbatches={given} of sharding.pipeline is no multiple of the {stages} stages of '
            f'mesh axis pipeline; take {-(-given // stages) * stages}'
        )
    for microbatches in (given,) if given else (2 * stages, stages):
        if rows % (microbatches * ways) == 0:
            return Plan(stages, pipeline.repeats, microbatches)
    raise UserError(
        f'{rows} rows cannot be split into {microbatches} microbatches of a pipeline × {ways} '
        f'devices; choose data.batch_size so that what it is over accumulate is a multiple of '
        f'{microbatches * ways}' + (', or other microbatches of sharding.pipeline' if given else '')
    )
