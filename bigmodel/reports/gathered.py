"""Run directories become arms with their runs, whether a sweep made them or not."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError, nearest, unknown
from bigmodel.sweeps.folder import RunState, SweepDir, metric_of
from bigmodel.sweeps.names import arm_names
from bigmodel.sweeps.plan import Job, Plan
from bigmodel.training.progress import watched

SAME = ('name', 'seed')  # keys that do not make another arm


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
        return {r.seed: r for r in self.runs if r.state == 'done' and not math.isnan(r.value)}


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a report is of."""

    title: str
    question: str
    metric: str
    better: str
    baseline: str
    budget: str
    arms: tuple[Arm, ...]
    commands: tuple[str, ...]

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
        return tuple(k for k in keys if len({str(a.changes.get(k, '')) for a in self.arms}) > 1)


def gather(folders: Sequence[pathlib.Path], metric: str = '', baseline: str = '') -> Gathered:
    """What is in the directory of a sweep, or in several of runs (or of folders of them).

    `metric` and `baseline` take the place of the sweep's. Raises UserError for a directory of
    neither, a metric that no run has, and a baseline that is no arm.
    """
    if len(folders) == 1 and SweepDir(folders[0]).plan.exists():
        found = _of_sweep(SweepDir(folders[0]), metric)
    else:
        found = _of_runs([run for folder in folders for run in _runs_in(folder)], metric)
    names = [arm.name for arm in found.arms]
    if baseline and baseline not in names:
        raise unknown('baseline', baseline, names)
    found = dataclasses.replace(found, baseline=baseline or found.baseline)
    _check_metric(found)
    return found


def _of_sweep(sweep: SweepDir, metric: str) -> Gathered:
    plan = sweep.read_plan()
    metric, better = _direction(metric or plan.metric, plan.better if not metric else '')
    by_arm: dict[str, list[Run]] = {arm.name: [] for arm in plan.arms}
    for state in sweep.states(plan):
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
        commands=_commands(plan, sweep.path),
    )


def _commands(plan: Plan, where: pathlib.Path) -> tuple[str, ...]:
    import shlex

    whole = ['python', 'launch.py', 'sweep', f'--config={plan.source}', f'--workdir={where}']
    whole += [f'--config.{key}={text}' for key, text in plan.overrides]
    return tuple(map(shlex.join, [whole, *(plan.command(job) for job in plan.jobs)]))


def _of_runs(paths: Sequence[pathlib.Path], metric: str) -> Gathered:
    metric, better = _direction(metric or 'validation/loss', '')
    configs = []
    for path in paths:
        keys = dict(config_lib.flatten(json.loads((path / 'config.json').read_text())))
        configs.append({k: tuple(v) if isinstance(v, list) else v for k, v in keys.items()})
    keys = dict.fromkeys(key for flat in configs for key in flat if key not in SAME)
    varied = [k for k in keys if len({repr(flat.get(k)) for flat in configs}) > 1]
    changes = [{k: flat.get(k, '') for k in varied} for flat in configs]
    different = list({repr(change): change for change in changes}.values())
    names = dict(zip(map(repr, different), arm_names(different), strict=True))
    by_arm: dict[str, list[Run]] = {name: [] for name in names.values()}
    for path, flat, change in zip(paths, configs, changes, strict=True):
        name = names[repr(change)]
        done = (path / 'result.json').exists()
        state = RunState(Job(name, flat['seed']), path, 'done' if done else 'stopped')
        by_arm[name].append(_run(state, metric))
    arms = tuple(
        Arm(names[repr(change)], change, tuple(by_arm[names[repr(change)]])) for change in different
    )
    title = ' and '.join(dict.fromkeys(str(flat['name']) for flat in configs[:3]))
    return Gathered(title, '', metric, better, arms[0].name, 'config', arms, ())


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The directory of a run itself, or all in a folder of runs or of sweeps."""
    if not folder.is_dir():
        raise UserError(f'{folder} is no directory')
    if (folder / 'config.json').exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob('**/config.json'))
    if not found:
        raise UserError(f'{folder} holds neither a sweep nor runs: there is no config.json in it')
    return found


def _run(state: RunState, metric: str) -> Run:
    records, result = state.records, state.result
    steps = max((r['step'] for r in records), default=0)
    facts = dict(state.run)
    tokens = steps * facts.get('tokens_per_step', 0)
    seconds = result.get('seconds') or max((r['seconds'] for r in records), default=0.0)
    facts |= {'steps': steps, 'tokens': tokens, 'seconds': seconds}
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


def _direction(metric: str, better: str) -> tuple[str, str]:
    """The metric's name, and which way it is better; 'validation/x: better=max' says it."""
    text = f'{metric}: better={better}' if better else metric
    evaluation = metric.partition('/')[0]
    found = watched(text, [evaluation], '--metric', patience=False)
    return f'{found.evaluation}/{found.metric}', found.better


def _check_metric(found: Gathered) -> None:
    begun = [run for run in found.runs if run.facts['steps']]
    if not begun or any(run.curve for run in found.runs):
        return
    there = sorted(set(_logged(run.path for run in begun[:8])))
    if any(name.partition('/')[0] == found.metric.partition('/')[0] for name in there):
        raise UserError(
            f'no run has logged {found.metric!r}.{nearest(found.metric, there)} '
            f'Logged: {", ".join(there)}'
        )


def _logged(paths: Iterable[pathlib.Path]) -> Iterable[str]:
    from bigmodel.training.writers import read_jsonl

    hidden = ('step', 'split', 'seconds', 'tokens_per_second')
    for path in paths:
        for record in read_jsonl(path / 'metrics.jsonl'):
            yield from (f'{record["split"]}/{key}' for key in record if key not in hidden)
