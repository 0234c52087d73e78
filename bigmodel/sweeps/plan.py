"""The plan of a sweep: every arm with what it changes, and so the config of every run.

A plan is written to `sweep.json`; workers, status and report read it there, so that none of them
depends on the file that it came from.
"""

import ast
import dataclasses
import fnmatch
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, nearest, unknown
from bigmodel.sweeps.arms import Search, Sweep
from bigmodel.sweeps.names import arm_names
from bigmodel.sweeps.spaces import as_text
from bigmodel.training.progress import watched

SET_BY_SWEEPS = ('sample', 'sharding.host_devices')
# What neither an arm nor the command line may set, and what to do instead.
NOT_OF_ARMS = {
    'seed': 'give Sweep(seeds=(0, 1, 2)), and --seeds to choose among them',
    'sample': 'samples are written by single runs; use `launch.py generate` afterwards',
}


@dataclasses.dataclass(frozen=True)
class PlannedArm:
    """An arm: the keys that it changes with their values as a command line has them, and what was
    counted of it before anything ran (sweeps/preflight.py).
    """

    name: str
    changes: Mapping[str, str]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The changes as Python values."""
        return {key: _value(text) for key, text in self.changes.items()}


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    arm: str
    seed: int

    def __str__(self) -> str:
        return f'{self.arm}/seed{self.seed}'


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `sweep.json` holds."""

    name: str
    question: str  # the first sentence of the file's docstring
    source: str  # 'experiments/ablations/x.py' or 'x.py:argument'
    overrides: tuple[tuple[str, str], ...]  # of the command line, for all arms
    metric: str
    better: str  # min or max
    baseline: str
    budget: str
    seeds: tuple[int, ...]
    base: Mapping[str, Any]  # the config that arms change
    arms: tuple[PlannedArm, ...]
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # where it was checked
    prune: str = 'none'
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # trials, space, sampler

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every run: all arms with the first seed, then with the second, and so on."""
        return tuple(Job(arm.name, seed) for seed in self.seeds for arm in self.arms)

    @property
    def asked(self) -> int:
        """How many arms a search has found."""
        return sum('trial' in arm.facts for arm in self.arms)

    @property
    def to_come(self) -> int:
        """How many arms a search has yet to find."""
        return max(0, self.search.get('trials', 0) - self.asked)

    def arm(self, name: str) -> PlannedArm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def config(self, arm: PlannedArm, seed: int) -> ConfigDict:
        """The config of one run, not resolved; raises UserError that names the arm."""
        config = config_lib.from_dict(self.base)
        try:
            for key, text in arm.changes.items():
                config_lib.override(config, key, text)
        except UserError as e:
            raise UserError(f'arm {arm.name}: {e}') from e
        config.seed, config.name = seed, f'{self.name}/{arm.name}/seed{seed}'
        return config

    def command(self, job: Job) -> list[str]:
        """The command line that makes this run alone, with the same numbers."""
        own = {key: as_text(dict(config_lib.flatten(self.base))[key]) for key in SET_BY_SWEEPS}
        seed = {'seed': str(job.seed), 'name': f'{self.name}/{job}'}
        changes = [*self.overrides, *(own | self.arm(job.arm).changes | seed).items()]
        flags = [f'--config.{key}={text}' for key, text in changes]
        return ['python', 'launch.py', f'--config={self.source}', *flags]

    def to_json(self) -> dict[str, Any]:
        """As `sweep.json` holds it."""
        return dataclasses.asdict(self)


def from_json(plain: Mapping[str, Any]) -> Plan:
    """The inverse of `to_json`, of what JSON makes of it."""
    arms = tuple(PlannedArm(**arm) for arm in plain['arms'])
    overrides = tuple((key, text) for key, text in plain['overrides'])
    seeds = tuple(plain['seeds'])
    base = config_lib.of_today(plain['base'])
    read = {'arms': arms, 'overrides': overrides, 'seeds': seeds, 'base': base}
    return Plan(**{**plain, **read})


def read_base(path_and_arg: str, overrides: Sequence[tuple[str, str]]) -> tuple[ConfigDict, Any]:
    """The config that the arms of a file change, and the module of the file."""
    module = config_lib.load_module(path_and_arg.partition(':')[0])
    config = config_lib.load(path_and_arg, overrides)
    config.sample = ''
    # One device an arm, so that a run is the same whoever runs beside it.
    config.sharding.host_devices = config.sharding.host_devices or 1
    return config, module


def read_plan(path_and_arg: str, overrides: Sequence[tuple[str, str]] = ()) -> Plan:
    """The plan of a sweep file; raises UserError for what is wrong with it.

    The arms are not yet checked beyond their keys and types: `preflight` does that.
    """
    path, _, arg = path_and_arg.partition(':')
    for key, text in overrides:
        if key in NOT_OF_ARMS and text:  # no sample is what a sweep has
            raise UserError(f'--config.{key} is not of a sweep: {NOT_OF_ARMS[key]}')
    base, module = read_base(path_and_arg, overrides)
    if not hasattr(module, 'sweep'):
        raise UserError(f'{path} does not define sweep(), which returns the arms')
    takes_arg = bool(inspect.signature(module.sweep).parameters)
    found = module.sweep(arg) if takes_arg else module.sweep()
    if not isinstance(found, Sweep):
        raise UserError(f'{path}: sweep() must return a Sweep, not {type(found).__name__}')
    _check(found, path)
    names = arm_names(found.arms)
    arms = tuple(
        PlannedArm(name, {k: as_text(v) for k, v in arm.items() if k != 'name'})
        for name, arm in zip(names, found.arms, strict=True)
    )
    baseline = found.baseline or names[0]
    if baseline not in names:
        raise unknown(f'{path}: baseline', baseline, names)
    metric = f'{found.metric}: better={found.better}' if found.better else found.metric
    compared = watched(metric, base.evals, f'{path}: metric', patience=False)
    plan = Plan(
        name=sweep_name(path_and_arg, overrides),
        question=_question(module.__doc__ or ''),
        source=path_and_arg,
        overrides=tuple(overrides),
        metric=f'{compared.evaluation}/{compared.metric}',
        better=compared.better,
        baseline=baseline,
        budget=found.budget,
        seeds=tuple(found.seeds),
        base=config_lib.to_dict(base),
        arms=arms,
        prune=found.prune,
        search=_search(found.search),
    )
    for each in arms:
        plan.config(each, plan.seeds[0])  # raises for a key or a type
    return plan


def sweep_name(path_and_arg: str, overrides: Sequence[tuple[str, str]]) -> str:
    """`--config.name`, or that of the file with its argument."""
    path, _, arg = path_and_arg.partition(':')
    stem = pathlib.Path(path).stem
    return dict(overrides).get('name', f'{stem}-{arg}' if arg else stem)


def selected(plan: Plan, patterns: str = '', seeds: str = '') -> tuple[Job, ...]:
    """The runs of arms that match one of 'rope* alibi' with the seeds '0,1' ('': all)."""
    names = [arm.name for arm in plan.arms]
    jobs = plan.jobs
    if patterns:
        wanted = set()
        for pattern in patterns.split():  # names have commas
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise UserError(
                    f'--arms: no arm matches {pattern!r}.{nearest(pattern, names)} '
                    f'Arms: {", ".join(names)}'
                )
            wanted |= set(matched)
        jobs = tuple(job for job in jobs if job.arm in wanted)
    if seeds:
        chosen = [int(s) if s.strip().isdecimal() else -1 for s in seeds.split(',')]
        if not set(chosen) <= set(plan.seeds):
            raise UserError(f'--seeds={seeds}: the sweep has {", ".join(map(str, plan.seeds))}')
        jobs = tuple(job for job in jobs if job.seed in chosen)
    return jobs


def _check(sweep: Sweep, path: str) -> None:
    listed = isinstance(sweep.arms, Sequence) and all(isinstance(a, Mapping) for a in sweep.arms)
    if not listed or not sweep.arms:
        raise UserError(f'{path}: arms={sweep.arms!r} must be a list of dicts, at least one')
    seeds = sweep.seeds if isinstance(sweep.seeds, Sequence) else ()
    right = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not right or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(
            f'{path}: seeds={sweep.seeds!r} must be a tuple of different whole numbers, such as '
            f'(0, 1, 2)'
        )
    for arm in sweep.arms:
        for key in (*NOT_OF_ARMS, 'sharding.host_devices'):
            if key in arm:
                why = NOT_OF_ARMS.get(key, 'every arm has the same; set it in get_config()')
                raise UserError(f'{path}: an arm sets {key!r}: {why}')
    if sweep.search != Search():
        _check_search(sweep, path)


def _check_search(sweep: Sweep, path: str) -> None:
    search = sweep.search
    if search.trials < 1 or not search.space:
        raise UserError(f'{path}: search needs trials=N and a space of keys')
    if len(sweep.seeds) > 1:
        raise UserError(
            f'{path}: a search tries each arm with one seed, not {len(sweep.seeds)}; compare the '
            f'best arms over seeds in another sweep'
        )
    if sweep.budget != 'config':
        raise UserError(f"{path}: a search has budget='config', not {sweep.budget!r}")
    if 'seed' in search.space:
        raise UserError(f'{path}: the seed is none of search.space; give Sweep(seeds=(1,)) instead')


def _search(search: Search) -> dict[str, Any]:
    """As a plan holds it; empty where there is none."""
    if search == Search():
        return {}
    space = {key: values.to_json() for key, values in search.space.items()}
    return {'trials': search.trials, 'sampler': search.sampler, 'space': space}


def _question(doc: str) -> str:
    """The first sentence of a docstring: its first paragraph up to a question mark or full stop."""
    text = ' '.join(doc.strip().partition('\n\n')[0].split())
    ends = [i for i in (text.find('? '), text.find('. ')) if i >= 0]
    return text[: min(ends) + 1] if ends else text


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
