"""What runs of a sweep have measured so far, kept in a file that all workers share.

It is an optuna study for each seed, whose trials are runs; without pruning and search there is
none.
"""

import math
from typing import Any

from bigmodel.sweeps.folder import PRUNED, SweepDir
from bigmodel.sweeps.optional import optuna
from bigmodel.sweeps.plan import Job, Plan
from bigmodel.sweeps.preflight import Builder
from bigmodel.sweeps.pruning import build_pruning
from bigmodel.training.progress import Watched, watched
from bigmodel.training.rundir import RunDir

RUN, ENDED = 'run', 'ended'  # keys of a trial


class NoStudies:
    """Every run goes on, whatever the others do."""

    def reason_to_stop(self, job: Job, run: RunDir) -> str:
        """Why the run should end now, from what it has measured; '' to go on."""
        return ''

    def tell(self, job: Job, run: RunDir, failed: str = '') -> None:
        """Takes note of a run that has ended, and how if badly ('fail', or 'lost' by its arm)."""

    def ask(self, builder: Builder) -> tuple[Job, ...]:
        """More runs; () when there are to be no more."""
        return ()


class Studies(NoStudies):
    """The studies of a sweep."""

    def __init__(self, sweep: SweepDir, plan: Plan) -> None:
        journal = optuna('prune').storages.journal
        self._sweep, self._plan = sweep, plan
        self._pruning = build_pruning(plan.prune)
        self._studies: dict[int, Any] = {}
        self._storage = optuna('prune').storages.JournalStorage(
            journal.JournalFileBackend(str(sweep.studies))
        )

    def of(self, seed: int) -> Any:
        """The study of the runs with this seed, which alone are compared."""
        if seed not in self._studies:
            self._studies[seed] = optuna('prune').create_study(
                storage=self._storage,
                study_name=f'seed{seed}',
                direction={'min': 'minimize', 'max': 'maximize'}[self._plan.better],
                pruner=self._pruning.pruner(),
                load_if_exists=True,
            )
        return self._studies[seed]

    def reason_to_stop(self, job: Job, run: RunDir) -> str:
        trial, found = self._trial(job), list(self._metric().values(run.metrics))
        for step, value in found:
            # A run that was killed measures some steps again, to the same values.
            if step not in self._frozen(job).intermediate_values:
                trial.report(value, step)
            if step == self._frozen(job).last_step:
                self._decide(job, trial, step, value)
        ended = self._frozen(job).user_attrs.get(ENDED)
        reached = ended is not None and any(step >= ended['step'] for step, _ in found)
        return ended['reason'] if reached else ''

    def tell(self, job: Job, run: RunDir, failed: str = '') -> None:
        states = optuna('prune').trial.TrialState
        values = [] if failed else [v for _, v in self._metric().values(run.metrics)]
        state = {'fail': states.FAIL, 'lost': states.PRUNED}.get(failed, states.COMPLETE)
        if self._frozen(job).user_attrs.get(ENDED):
            state = states.PRUNED
        elif not failed and not (values and math.isfinite(values[-1])):
            state = states.FAIL
        value = values[-1] if state == states.COMPLETE else None
        self.of(job.seed).tell(self._frozen(job).number, value, state, skip_if_finished=True)

    def _decide(self, job: Job, trial: Any, step: int, value: float) -> None:
        """Asks the pruner, and keeps its answer for when the run is resumed: it gives it once."""
        last = step >= self._plan.arm(job.arm).facts['num_steps']
        if trial.should_prune() and job.arm != self._plan.baseline and not last:
            reason = (
                f'{PRUNED} at step {step} by {self._plan.prune}: {self._plan.metric} {value:.4f}'
            )
            trial.set_user_attr(ENDED, {'step': step, 'reason': reason})

    def _metric(self) -> Watched:
        plan = self._plan
        text = f'{plan.metric}: better={plan.better}'
        return watched(text, plan.base['evals'], 'metric', patience=False)

    def _trial(self, job: Job) -> Any:
        frozen = self._frozen(job)
        return optuna('prune').trial.Trial(self.of(job.seed), frozen._trial_id)

    def _frozen(self, job: Job) -> Any:
        """The open trial of a run as it is now; one that ended is not taken up again."""
        study, states = self.of(job.seed), optuna('prune').trial.TrialState
        for _ in range(2):
            for frozen in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                if frozen.user_attrs.get(RUN) == str(job):
                    return frozen
            study.add_trial(
                optuna('prune').trial.create_trial(
                    state=states.RUNNING, user_attrs={RUN: str(job)}, **self._entries(job)
                )
            )
        raise AssertionError(f'{job} was added and is not there')

    def _entries(self, job: Job) -> dict[str, Any]:
        """What else a new trial of a run has."""
        return {}


def open_studies(sweep: SweepDir, plan: Plan) -> NoStudies:
    """Of a sweep that prunes; else none."""
    return Studies(sweep, plan) if build_pruning(plan.prune).ends else NoStudies()
