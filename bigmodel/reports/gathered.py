"""Run directories become arms with their runs, whether a sweep made them or not."""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError, nearest, unknown
from bigmodel.reports.again import job_again, sweep_again
from bigmodel.reports.found import Found, runs_in
from bigmodel.sweeps.folder import RunState, SweepDir, metric_of
from bigmodel.sweeps.names import arm_names
from bigmodel.sweeps.plan import SET_BY_SWEEPS, Job
from bigmodel.training.progress import watched
from bigmodel.training.writers import ABOUT

COMPILED = 'compile_seconds'  # of results; in those of older runs `seconds` has some of it
GOODPUT = 'goodput'  # of results: the share of the wall time that went into steps that count
SAME = ('name', 'seed', *SET_BY_SWEEPS)  # keys that do not make another arm


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: `value` is the last of the metric, NaN where there is none yet."""

    arm: str
    seed: int
    state: str
    path: pathlib.Path
    curve: tuple[tuple[int, float], ...]
    error: str
    facts: Mapping[str, Any]  # of run.json, and steps, tokens and seconds so far
    config: Mapping[str, Any]  # flat

    @property
    def value(self) -> float:
        return self.curve[-1][1] if self.curve else math.nan

    @property
    def step(self) -> int:
        """Of `value`; 0 where there is none yet."""
        return self.curve[-1][0] if self.curve else 0

    @property
    def outcome(self) -> str:
        """Its state; 'failed' also where it ended without a finite value."""
        return 'failed' if self.state == 'done' and not math.isfinite(self.value) else self.state

    @property
    def reason(self) -> str:
        """The first line of why it failed."""
        if self.error or self.outcome != 'failed':
            return self.error.partition('\n')[0]
        return (
            f'ended with the metric at {self.value}' if self.curve else 'ended without the metric'
        )

    @property
    def flops(self) -> float:
        """Training FLOPs that it has spent."""
        return float(self.facts.get('flops_per_token', 0)) * self.facts['tokens']


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs of one arm, by seed."""

    name: str
    changes: Mapping[str, Any]
    runs: tuple[Run, ...]

    @functools.cached_property
    def done(self) -> dict[int, Run]:
        """The finished ones that have a value, by seed: only these are compared."""
        return {r.seed: r for r in self.runs if r.outcome == 'done'}

    @property
    def shown(self) -> tuple[Run, ...]:
        """The finished runs; all that have a value where none has finished."""
        return tuple(self.done.values()) or tuple(r for r in self.runs if math.isfinite(r.value))

    @property
    def mean(self) -> float:
        """Of the runs shown; NaN of none."""
        values = [run.value for run in self.shown]
        return statistics.fmean(values) if values else math.nan

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the runs shown; NaN of fewer than two."""
        return deviation([run.value for run in self.shown])

    def minus(self, base: 'Arm') -> list[float]:
        """The differences to `base` of the seeds that both have finished."""
        return [r.value - base.done[s].value for s, r in self.done.items() if s in base.done]

    @property
    def outcome(self) -> str:
        """What has become of its runs: 'done', 'failed', or several of them."""
        return ', '.join(dict.fromkeys(run.outcome for run in self.runs))

    def setting(self, key: str) -> Any:
        """Its value of a key of the config, which it may leave as it was; '' where unknown."""
        if key in self.changes:
            return self.changes[key]
        value = next((run.config[key] for run in self.runs if key in run.config), '')
        return tuple(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a report is of; `commands` make each run again, `whole` the sweep if it is one."""

    title: str
    question: str
    metric: str
    better: str
    baseline: str
    budget: str
    arms: tuple[Arm, ...]
    commands: tuple[str, ...]
    whole: str = ''

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.better == 'max' else -1

    @property
    def base(self) -> Arm:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys in which arms differ."""
        keys = dict.fromkeys(key for arm in self.arms for key in arm.changes)
        return tuple(k for k in keys if len({repr(a.setting(k)) for a in self.arms}) > 1)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def gather(folders: Sequence[pathlib.Path], metric: str = '', baseline: str = '') -> Gathered:
    """What is in the directory of a sweep, or in several, or in those of runs (or of folders).

    `metric` and `baseline` take the place of the sweep's. Raises UserError for a directory of
    neither, a metric that no run has, and a baseline that is no arm.
    """
    if len(folders) == 1 and SweepDir(folders[0]).plan.exists():
        found = _of_sweep(SweepDir(folders[0]), metric)
    else:
        found = _of_runs(folders, metric)
    names = [arm.name for arm in found.arms]
    if baseline and baseline not in names:
        raise unknown('baseline', baseline, names)
    return dataclasses.replace(found, baseline=baseline or found.baseline)


def _of_sweep(sweep: SweepDir, metric: str) -> Gathered:
    plan = sweep.read_plan()
    states = sweep.states(plan)
    metric, better = _direction(metric or plan.metric, plan.better if not metric else '', states)
    by_arm: dict[str, list[Run]] = {arm.name: [] for arm in plan.arms}
    for state in states:
        by_arm[state.job.arm].append(_run(state, metric))
    arms = tuple(Arm(arm.name, arm.values, tuple(by_arm[arm.name])) for arm in plan.arms)
    return Gathered(
        title=plan.name,
        question=plan.question,
        metric=metric,
        better=better,
        baseline=plan.baseline,
        budget=plan.budget,
        arms=arms,
        commands=tuple(job_again(plan, sweep.path, job) for job in plan.jobs),
        whole=sweep_again(plan, sweep.path),
    )


def _of_runs(folders: Sequence[pathlib.Path], metric: str) -> Gathered:
    """Runs of several places: those whose configs are alike, but for the seed, are an arm."""
    plans = [SweepDir(path).read_plan() for path in folders if SweepDir(path).plan.exists()]
    found = [run for folder in folders for run in runs_in(folder)]
    states = [run.state for run in found]
    metric, better = _direction(
        metric or (plans[0].metric if plans else 'validation/loss'),
        plans[0].better if plans and not metric else '',
        states,
    )
    arms = _arms_of(found, metric)
    wanted = plans[0].baseline if plans else ''
    bases = [state.path for state in states if state.job.arm == wanted] or [states[0].path]
    name = next(arm.name for arm in arms if any(run.path == bases[0] for run in arm.runs))
    titles = dict.fromkeys([plan.name for plan in plans] or [path.name for path in folders])
    return Gathered(
        title=', '.join(titles),
        question=' '.join(dict.fromkeys(plan.question for plan in plans)),
        metric=metric,
        better=better,
        baseline=name,
        budget='config',
        arms=arms,
        commands=tuple(dict.fromkeys(run.again for run in found if run.again)),
    )


def _arms_of(found: Sequence[Found], metric: str) -> tuple[Arm, ...]:
    keys = dict.fromkeys(key for run in found for key in run.config if key not in SAME)
    configs = [run.config for run in found]
    varied = [k for k in keys if len({repr(flat.get(k)) for flat in configs}) > 1]
    changes = [{k: flat.get(k, '') for k in varied} for flat in configs]
    different = list({repr(change): change for change in changes}.values())
    names = dict(zip(map(repr, different), arm_names(different), strict=True))
    by_arm: dict[str, list[Run]] = {name: [] for name in names.values()}
    for run, change in zip(found, changes, strict=True):
        name = names[repr(change)]
        job = Job(name, run.config['seed'])
        by_arm[name].append(_run(dataclasses.replace(run.state, job=job), metric))
    return tuple(
        Arm(names[repr(change)], change, tuple(by_arm[names[repr(change)]])) for change in different
    )


def _run(state: RunState, metric: str) -> Run:
    records, result = state.records, state.result
    steps = max((r['step'] for r in records), default=0)
    facts = dict(state.run)
    tokens = steps * facts.get('tokens_per_step', 0)
    seconds = result.get('seconds') or max((r['seconds'] for r in records), default=0.0)
    facts |= {'steps': steps, 'tokens': tokens, 'seconds': seconds}
    facts |= {key: result[key] for key in (COMPILED, 'together') if key in result}
    facts |= {GOODPUT: result[GOODPUT]['fraction']} if GOODPUT in result else {}
    return Run(
        arm=state.job.arm,
        seed=state.job.seed,
        state=state.state,
        path=state.path,
        curve=tuple(metric_of(records, metric)),
        error=state.error,
        facts=facts,
        config=dict(config_lib.flatten(state.config)),
    )


def _direction(metric: str, better: str, states: Sequence[RunState]) -> tuple[str, str]:
    """The metric's name, and which way it is better; 'validation/x: better=max' says it.

    Raises UserError for a metric that no run has logged and none will.
    """
    name = metric.partition(':')[0].strip()
    _check_logged(name, states)
    text = f'{metric}: better={better}' if better else metric
    found = watched(text, [name.partition('/')[0]], '--metric', patience=False)
    return f'{found.evaluation}/{found.metric}', found.better


def _check_logged(metric: str, states: Sequence[RunState]) -> None:
    begun = [state for state in states if state.records]
    if not begun or any(metric_of(state.records, metric) for state in states):
        return
    logged = {
        f'{record["split"]}/{key}'
        for state in begun
        for record in state.records
        for key in record
        if key not in ABOUT
    }
    evaluation = metric.partition('/')[0]
    awaited = any(evaluation in config['evals'] for s in begun if 'evals' in (config := s.config))
    if awaited and not any(name.startswith(f'{evaluation}/') for name in logged):
        return  # its first evaluation is still to come
    there = sorted(logged)
    raise UserError(
        f'no run has logged {metric!r}.{nearest(metric, there)} Logged: {", ".join(there)}'
    )
