"""The plan of a sweep in words, before it runs."""

from collections.abc import Sequence

from bigmodel.quantities import short
from bigmodel.sweeps.plan import Job, Plan
from bigmodel.sweeps.status import duration

# Of the speed of a matrix product, what the step of a small model reaches: a rough guess.
EFFICIENCY = 0.4


def table(plan: Plan, jobs: Sequence[Job], workers: int) -> str:
    """A line for each arm, and the total."""
    there = {job.arm for job in jobs}
    arms = [arm for arm in plan.arms if arm.name in there]
    width = max(len('arm'), *(len(arm.name) for arm in arms)) + 1
    lines = [
        f'{"arm":<{width}} {"program":>7} {"parameters":>11} {"steps":>8} {"tokens":>8} '
        f'{"FLOPs":>8} {"memory":>8} {"time":>7}'
    ]
    for arm in arms:
        f, mark = arm.facts, '*' if arm.name == plan.baseline else ''
        lines.append(
            f'{arm.name + mark:<{width}} {f["program"]:>7} {f["num_params"]:>11,} '
            f'{f["num_steps"]:>8,} {short(f["tokens"]):>8} {short(f["flops"]):>8} '
            f'{short(f["memory_bytes"], unit="B"):>8} {duration(_seconds(plan, arm.name)):>7}'
        )
    programs = len({arm.facts['program'] for arm in arms})
    seconds = sum(_seconds(plan, job.arm) for job in jobs) / workers
    flops = sum(plan.arm(job.arm).facts['flops'] for job in jobs)
    found = f', and {plan.to_come} that a search is to find' if plan.to_come else ''
    lines += [
        '',
        f'{len(arms)} arms ({"* is" if plan.baseline in there else "without"} the baseline), '
        f'{len(jobs)} runs, {programs} programs to compile, {short(flops)}FLOP; roughly '
        f'{duration(seconds)} of training on {workers} workers{found}',
        f'compared by {plan.metric} ({plan.better} is better), budget {plan.budget}, '
        f'prune {plan.prune}',
    ]
    return '\n'.join(lines)


def _seconds(plan: Plan, name: str) -> float:
    facts = plan.arm(name).facts
    speed = EFFICIENCY * plan.machine['matmul_flops_per_second']
    return (facts['flops'] + facts['evaluation_flops']) / speed
