"""Arms that are not known before: each is proposed from what the others came to."""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bigmodel.data.locks import exclusive
from bigmodel.errors import UserError
from bigmodel.sweeps.folder import SweepDir
from bigmodel.sweeps.names import trial_name
from bigmodel.sweeps.optional import optuna
from bigmodel.sweeps.plan import Job, Plan, PlannedArm
from bigmodel.sweeps.preflight import Builder, check_arm
from bigmodel.sweeps.samplers import build_sampler
from bigmodel.sweeps.spaces import Space, as_text, from_json
from bigmodel.sweeps.studies import RUN, NoStudies, Studies, open_studies
from bigmodel.training.rundir import RunDir

ATTEMPTS = 100  # proposals in a row that were there before, or cannot run


class Searching(Studies):
    """The study of a search, which also proposes."""

    def ask(self, builder: Builder) -> tuple[Job, ...]:
        """The run of a new arm, which is in the plan now; () when there are to be no more."""
        with adding(self._sweep):
            self._plan = plan = self._sweep.read_plan()
            if not plan.to_come:
                return ()
            self._tell_of_the_killed()
            for trial in self._proposals():
                arm = self._checked(trial, builder)
                if arm.name:
                    break
            else:
                print(
                    f'the search ends: {ATTEMPTS} proposals in a row were there before', flush=True
                )
                return ()
            self._plan = dataclasses.replace(plan, arms=(*plan.arms, arm))
            self._sweep.write_plan(self._plan)
            job = Job(arm.name, plan.seeds[0])
            trial.set_user_attr(RUN, str(job))
            return (job,)

    def _proposals(self) -> Iterator[Any]:
        """Trials; first one that was proposed by a worker that was killed before it said so."""
        study, there = self._study, {str(job) for job in self._plan.jobs}
        for frozen in self._open():
            if frozen.user_attrs.get(RUN) not in there:
                yield optuna('search').trial.Trial(study, frozen._trial_id)
        distributions = {key: space.distribution() for key, space in self._space.items()}
        for _ in range(ATTEMPTS):
            number = len(study.get_trials(deepcopy=False))
            study.sampler = build_sampler(self._plan.search['sampler']).sampler(number)
            yield study.ask(distributions)

    def _checked(self, trial: Any, builder: Builder) -> PlannedArm:
        """The arm of a proposal; without a name where it cannot be one, which the study is told."""
        values = {key: space.value(trial.params[key]) for key, space in self._space.items()}
        changes = {key: as_text(value) for key, value in values.items()}
        twin = any(changes == dict(arm.changes) for arm in self._plan.arms)
        try:
            if not twin:
                number = self._plan.asked + 1
                arm = PlannedArm(trial_name(number, values), changes)
                arm = check_arm(self._plan, arm, builder)
                return dataclasses.replace(arm, facts={**arm.facts, 'trial': number})
        except UserError as e:
            print(f'proposed, and cannot run: {e}', flush=True)
        self._study.tell(trial.number, state=optuna('search').trial.TrialState.FAIL)
        return PlannedArm('', {})

    def _tell_of_the_killed(self) -> None:
        """Of runs whose worker was killed after their end, before it told of it."""
        jobs = {str(job): job for job in self._plan.jobs}
        for frozen in self._open():
            job = jobs.get(frozen.user_attrs.get(RUN, ''))
            if job and self._sweep.state(job).state in ('done', 'pruned'):
                with self._sweep.claim(job) as ours:
                    if ours:
                        self.tell(job, RunDir(self._sweep.run_dir(job)))

    def _open(self) -> list[Any]:
        running = (optuna('search').trial.TrialState.RUNNING,)
        return self._study.get_trials(deepcopy=False, states=running)

    def _entries(self, job: Job) -> dict[str, Any]:
        arm = self._plan.arm(job.arm)
        if 'trial' not in arm.facts:
            return {}
        return {
            'params': {key: space.read(arm.changes[key]) for key, space in self._space.items()},
            'distributions': {key: space.distribution() for key, space in self._space.items()},
        }

    @property
    def _study(self) -> Any:
        return self.of(self._plan.seeds[0])

    @property
    def _space(self) -> dict[str, Space]:
        return {key: from_json(plain) for key, plain in self._plan.search['space'].items()}


def open_search(sweep: SweepDir, plan: Plan) -> NoStudies:
    """The studies of a sweep, which propose arms where it is a search."""
    return Searching(sweep, plan) if plan.search else open_studies(sweep, plan)


def adding(sweep: SweepDir) -> AbstractContextManager[None]:
    """Only one process at a time adds to a plan that is there."""
    return exclusive(sweep.searching) if sweep.plan.exists() else nullcontext()


def with_found(sweep: SweepDir, plan: Plan) -> Plan:
    """The plan with the arms that a search in this directory has found already.

    Raises UserError when that was another search.
    """
    old = sweep.read_plan() if sweep.plan.exists() else plan
    if not old.asked:
        return plan
    for key in ('metric', 'better', 'baseline', 'prune', 'seeds'):
        _same(sweep, key, getattr(old, key), getattr(plan, key))
    for key in ('space', 'sampler'):
        _same(sweep, f'search.{key}', old.search[key], plan.search.get(key))
    return dataclasses.replace(
        plan, arms=(*plan.arms, *(arm for arm in old.arms if 'trial' in arm.facts))
    )


def _same(sweep: SweepDir, key: str, old: Any, new: Any) -> None:
    if old != new:
        raise UserError(
            f'{sweep.path} holds a search with {key}={old!r}, not {new!r}; choose another '
            f'--workdir or --config.name'
        )
