"""What a sweep has done so far, as a table."""

from collections.abc import Sequence

from bigmodel.sweeps.folder import ENDED, STATES, RunState, metric_of
from bigmodel.sweeps.plan import Plan


def status(plan: Plan, runs: Sequence[RunState]) -> str:
    """A line for each run, and what is left."""
    width = max(len(str(run.job)) for run in runs)
    metric = plan.metric.rpartition('/')[2]
    lines = [f'{"run":<{width}}  {"state":<8} {"step":>12} {metric:>10} {"seconds":>8}']
    lines += [_line(plan, run, width) for run in runs]
    return '\n'.join([*lines, '', summary(plan, runs)])


def summary(plan: Plan, runs: Sequence[RunState]) -> str:
    """'3 done, 2 running, 11 waiting; about 4 min left'."""
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    words = ', '.join(f'{n} {state}' for state, n in counts.items() if n)
    left = seconds_left(plan, runs)
    words += f', {plan.to_come} to be found' if plan.to_come else ''
    return words + (f'; about {duration(left)} left' if left else '')


def seconds_left(plan: Plan, runs: Sequence[RunState]) -> float:
    """By the speed of what ran so far and how many work now; 0 when nothing is known or left."""
    done = {run.job: _progress(plan, run) for run in runs}
    flops = {run.job: plan.arm(run.job.arm).facts['flops'] for run in runs}
    seconds = {run.job: _seconds(run) for run in runs}
    worked = sum(flops[job] * share for job, share in done.items() if seconds[job])
    spent = sum(seconds.values())
    left = sum(flops[r.job] * (1 - done[r.job]) for r in runs if r.state not in ENDED)
    mean = sum(flops.values()) / len(flops)
    left += plan.to_come * mean
    workers = sum(run.state == 'running' for run in runs)
    return left * spent / worked / max(workers, 1) if worked and workers else 0.0


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def _line(plan: Plan, run: RunState, width: int) -> str:
    steps = plan.arm(run.job.arm).facts['num_steps']
    records = run.records
    step = max((r['step'] for r in records), default=0)
    values = metric_of(records, plan.metric)
    value = f'{values[-1][1]:.4f}' if values else ''
    line = (
        f'{run.job!s:<{width}}  {run.state:<8} {f"{step:,}/{steps:,}":>12} {value:>10} '
        f'{_seconds(run):>8.0f}'
    )
    return line + (f'  {run.reason}' if run.reason else '')


def _progress(plan: Plan, run: RunState) -> float:
    steps = plan.arm(run.job.arm).facts['num_steps']
    return max((r['step'] for r in run.records), default=0) / steps


def _seconds(run: RunState) -> float:
    return max((r['seconds'] for r in run.records), default=0.0)
