"""When a run of a sweep that loses is ended: `Sweep(prune='halving(first=200)')`."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.specs import POSITIVE, Range, make
from bigmodel.sweeps.optional import optuna
from bigmodel.sweeps.plan import Plan, PlannedArm

AT_LEAST_TWO = Range(lambda x: x >= 2, 'at least 2')


@dataclasses.dataclass(frozen=True)
class Never:
    """Not at all: every run trains to its end."""

    ends: typing.ClassVar[bool] = False

    def check(self, plan: Plan, arms: Sequence[PlannedArm]) -> None:
        """Raises UserError where the arms, with their facts, cannot be compared on their way."""

    def pruner(self) -> Any:
        """Of optuna."""
        return optuna('prune').pruners.NopPruner()


@dataclasses.dataclass(frozen=True)
class Halving(Never):
    """After `first` steps, and each `reduction` times as many, when it is not among the best
    1/`reduction` of the runs of its seed that have come as far (ASHA, Li et al. 2020).

    Nobody waits for the others: a run is compared with those that are there. The first ones, fewer
    than `reduction`, are ended when they are not the best yet.
    """

    first: Annotated[int, POSITIVE]
    reduction: Annotated[int, AT_LEAST_TWO] = 3

    ends: typing.ClassVar[bool] = True

    def check(self, plan: Plan, arms: Sequence[PlannedArm]) -> None:
        optuna('prune')  # says how to install it before anything runs
        lengths = {arm.facts['num_steps']: arm.name for arm in arms}
        if len(lengths) > 1:
            (least, one), *_, (most, other) = sorted(lengths.items())
            raise UserError(
                f'prune compares arms after equal steps, but {one} trains for {least} and {other} '
                f"for {most}; make num_steps equal, or set prune='none'"
            )
        (steps,) = lengths
        if self.first >= steps:
            raise UserError(
                f'prune: first={self.first} is not before the end of a run of {steps} steps'
            )
        for arm in arms:
            self._check_evaluations(plan, plan.config(arm, plan.seeds[0]), steps)

    def pruner(self) -> Any:
        return optuna('prune').pruners.SuccessiveHalvingPruner(
            min_resource=self.first, reduction_factor=self.reduction
        )

    def _check_evaluations(self, plan: Plan, config: ConfigDict, steps: int) -> None:
        name = plan.metric.partition('/')[0]
        every = config.evals[name].every
        if self.first % every:
            there = sorted({max(self.first // every, 1) * every, (self.first // every + 1) * every})
            choices = ' or '.join(f'first={n}' for n in there if n < steps)
            raise UserError(
                f'prune: {plan.metric} is not measured after first={self.first} steps, but every '
                f'{every}; use {choices or f"evals.{name}.every={self.first}"}'
            )


PRUNERS = {'none': Never, 'halving': Halving}


def build_pruning(text: str) -> Never:
    """'none', 'halving(first=200)'; raises UserError for an unknown one."""
    return make(PRUNERS, text, 'prune')
