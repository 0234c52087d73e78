"""What all arms of a sweep have alike, so that a difference is one of the arms and not of means."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from bigmodel.errors import UserError
from bigmodel.specs import NOT_NEGATIVE, make
from bigmodel.sweeps.plan import Plan, PlannedArm
from bigmodel.training.measure import measure
from bigmodel.training.outline import resolve

TIMED_STEPS = 8
STEP = 'step_seconds'  # among the facts of an arm

Count = Callable[[PlannedArm], dict[str, Any]]
Amount = Annotated[float, NOT_NEGATIVE]


@dataclasses.dataclass(frozen=True)
class Budget:
    """Nothing: every arm trains as long, and is as large, as its config says."""

    def even(self, plan: Plan, count: Count) -> tuple[PlannedArm, ...]:
        """The arms, changed so that they are alike, with the facts that `count` finds."""
        return tuple(dataclasses.replace(arm, facts=count(arm)) for arm in plan.arms)


@dataclasses.dataclass(frozen=True)
class Steps(Budget):
    """So many updates; 0: as many as the baseline's. Each kind of budget changes `num_steps`."""

    amount: Amount = 0.0

    def even(self, plan: Plan, count: Count) -> tuple[PlannedArm, ...]:
        amount = self.amount
        if not amount:
            facts = count(plan.arm(plan.baseline))
            amount = self.cost(facts) * facts['num_steps']
        return tuple(self._evened(arm, amount, count) for arm in plan.arms)

    def cost(self, facts: dict[str, Any]) -> float | int:
        """Of a step."""
        return 1.0

    def _evened(self, arm: PlannedArm, amount: float | int, count: Count) -> PlannedArm:
        _refuse(arm, 'num_steps')
        steps = max(1, round(amount / self.cost(count(arm))))
        arm = dataclasses.replace(arm, changes={**arm.changes, 'num_steps': str(steps)})
        return dataclasses.replace(arm, facts=count(arm))


@dataclasses.dataclass(frozen=True)
class Tokens(Steps):
    """So many tokens; 0: the baseline's."""

    def cost(self, facts: dict[str, Any]) -> float | int:
        return facts['tokens_per_step']


@dataclasses.dataclass(frozen=True)
class Flops(Steps):
    """So many training FLOPs; 0: the baseline's."""

    def cost(self, facts: dict[str, Any]) -> float | int:
        return facts['flops_per_token'] * facts['tokens_per_step']


@dataclasses.dataclass(frozen=True)
class Seconds(Budget):
    """So many seconds of training, by the step time that each arm has alone on this machine; 0: the
    baseline's. Compilation and evaluations are not counted.

    What was measured of an arm stays in the plan, so that a sweep that goes on has the same steps.
    """

    amount: Amount = 0.0

    def even(self, plan: Plan, count: Count) -> tuple[PlannedArm, ...]:
        base = plan.arm(plan.baseline)
        amount = self.amount or count(base)['num_steps'] * self._step(plan, base)
        return tuple(self._evened(plan, arm, amount, count) for arm in plan.arms)

    def _evened(self, plan: Plan, arm: PlannedArm, amount: float | int, count: Count) -> PlannedArm:
        _refuse(arm, 'num_steps')
        seconds = self._step(plan, arm)
        if not self.amount and arm.name == plan.baseline:
            return dataclasses.replace(arm, facts=count(arm) | {STEP: seconds})
        steps = max(1, round(amount / seconds))
        arm = dataclasses.replace(arm, changes={**arm.changes, 'num_steps': str(steps)})
        return dataclasses.replace(arm, facts=count(arm) | {STEP: seconds})

    def _step(self, plan: Plan, arm: PlannedArm) -> float:
        if STEP in arm.facts:
            return arm.facts[STEP]
        config = resolve(plan.config(arm, plan.seeds[0]))
        return measure(config, TIMED_STEPS)['step_ms']['median'] / 1000


def with_measured(plan: Plan, before: Plan) -> Plan:
    """`plan` with the step times that an earlier plan of the same config measured."""
    if (plan.base, plan.budget) != (before.base, before.budget):
        return plan
    known = {
        arm.name: ({k: v for k, v in arm.changes.items() if k != 'num_steps'}, arm.facts[STEP])
        for arm in before.arms
        if STEP in arm.facts
    }

    def again(arm: PlannedArm) -> PlannedArm:
        changes, seconds = known.get(arm.name, (None, 0.0))
        same = changes == dict(arm.changes)
        return dataclasses.replace(arm, facts={STEP: seconds}) if same else arm

    return dataclasses.replace(plan, arms=tuple(map(again, plan.arms)))


@dataclasses.dataclass(frozen=True)
class Parameters(Budget):
    """So many parameters, by the width that comes nearest; 0: the baseline's.

    The width stays a multiple of `multiple`, or of twice the number of heads where that is 0.
    """

    amount: Amount = 0.0
    multiple: Annotated[int, NOT_NEGATIVE] = 0

    def even(self, plan: Plan, count: Count) -> tuple[PlannedArm, ...]:
        amount = self.amount or count(plan.arm(plan.baseline))['num_params']
        return tuple(self._evened(plan, arm, amount, count) for arm in plan.arms)

    def _evened(self, plan: Plan, arm: PlannedArm, amount: float | int, count: Count) -> PlannedArm:
        _refuse(arm, 'model.width')
        model = resolve(plan.config(arm, plan.seeds[0])).model
        unit = self.multiple or 2 * model.num_heads

        def of_width(width: int) -> PlannedArm:
            changed = dataclasses.replace(arm, changes={**arm.changes, 'model.width': str(width)})
            return dataclasses.replace(changed, facts=count(changed))

        tried = [dataclasses.replace(arm, facts=count(arm))]
        if tried[0].facts['num_params'] == amount:
            return tried[0]
        low, high = 1, max(2, 4 * model.width // unit)  # in units; more of them, more parameters
        while of_width(high * unit).facts['num_params'] < amount:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            tried.append(of_width(middle * unit))
            low, high = (
                (middle + 1, high) if tried[-1].facts['num_params'] < amount else (low, middle)
            )
        tried.append(of_width(low * unit))
        return min(tried, key=lambda a: abs(a.facts['num_params'] - amount))


BUDGETS = {
    'config': Budget,
    'steps': Steps,
    'tokens': Tokens,
    'flops': Flops,
    'parameters': Parameters,
    'seconds': Seconds,
}


def build_budget(text: str) -> Budget:
    """'flops', 'tokens(1e8)', …; raises UserError for an unknown one."""
    return make(BUDGETS, text, 'budget')


def _refuse(arm: PlannedArm, key: str) -> None:
    if key in arm.changes:
        raise UserError(
            f"arm {arm.name} sets {key}, which the budget is to set; use budget='config'"
        )
