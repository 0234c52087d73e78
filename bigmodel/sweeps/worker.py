"""A worker trains the runs of a sweep that nobody else does, one after the other or, on an
accelerator, those of one program together.

Any number of workers may share a directory, on one machine or on many that see it: a lock says who
does what, and dies with its holder. So the share `index` of `count` only says where a worker
begins.
"""

import contextlib
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

from bigmodel.errors import UserError
from bigmodel.inference.run_to_end import run_to_end
from bigmodel.planning.exhausted import explained
from bigmodel.sweeps.folder import OPEN, SweepDir
from bigmodel.sweeps.gangs import Group, grouped
from bigmodel.sweeps.plan import Job, Plan
from bigmodel.sweeps.preflight import Builder
from bigmodel.sweeps.search import open_search
from bigmodel.sweeps.studies import NoStudies
from bigmodel.training.exhausted import Exhausted
from bigmodel.training.outline import resolve
from bigmodel.training.rundir import RunDir
from bigmodel.training.signals import Interrupted
from bigmodel.training.together import Member, train_together

MOST_DEATHS = 2  # of processes, of which a run may be the cause
KEPT_PROGRAMS = 4  # by a worker, which trains the runs of one after those of another


class Worker:
    """A process that works on a sweep: as `index` of `count`, on up to `together` runs at once (0:
    as many as its devices hold).
    """

    def __init__(self, sweep: SweepDir, index: int, count: int, together: int = 0) -> None:
        self._sweep, self._index, self._count, self._together = sweep, index, count, together
        self._builder, self._alone = Builder(KEPT_PROGRAMS), set[Job]()
        self._studies: NoStudies = open_search(sweep, sweep.read_plan())

    def work(self, jobs: Sequence[Job], search: bool = True) -> None:
        """Trains what is open of `jobs`, until nothing is that nobody works on; then, with
        `search`, what a search proposes.

        A run that fails is recorded and leaves the others alone. Raises Interrupted after a signal.
        """
        plan = self._sweep.read_plan()
        turns = self.in_turn(plan, jobs)
        while True:
            while any([self._try(group) for group in turns]):
                pass  # what another worker left may be open again
            found = self._studies.ask(self._builder) if search else ()
            if not found:
                return
            turns = [*grouped(self._sweep.read_plan(), found, self._together), *turns]

    def in_turn(self, plan: Plan, jobs: Sequence[Job]) -> list[Group]:
        """All of `jobs`, a worker's own share first: whole programs, so that few compile one twice.

        Every seed of the first is before the next, so that what is done can be compared.
        """
        programs = {arm.name: arm.facts['program'] for arm in plan.arms}
        own = [job for job in jobs if programs[job.arm] % self._count == self._index]
        if len(set(programs[job.arm] for job in jobs)) < self._count:  # too few to go round
            own = list(jobs[self._index :: self._count])
        rest = [job for job in jobs if job not in own]
        return [
            *grouped(plan, own, self._together),
            *grouped(plan, rest, self._together),
        ]

    def _try(self, group: Group) -> bool:
        """Whether this worker had to do runs of the group, and has."""
        # One that the group could not train, or whose process died, is tried alone.
        apart = [job for job in group if job in self._alone or self._sweep.deaths(job)]
        together = tuple(job for job in group if job not in apart)
        return any([self._do(jobs) for jobs in (together, *((job,) for job in apart)) if jobs])

    def _do(self, group: Group) -> bool:
        """Whether runs of the group were open, and are not any more."""
        with contextlib.ExitStack() as held:
            ours = [job for job in group if self._claimed(job, held)]
            plan = self._sweep.read_plan()  # it may have been made anew, and a search adds to it
            ours = [job for job in ours if job in plan.jobs]
            for job in ours:
                if self._sweep.deaths(job) >= MOST_DEATHS:
                    what = f'its process died {MOST_DEATHS} times while it ran (of memory?)'
                    self._sweep.fail(job, what)
                    return True
            # A plan that was made anew may have changed what is one program.
            for jobs in grouped(plan, ours, len(ours) or 1):
                self._noted(plan, jobs)
            return bool(ours)

    def _claimed(self, job: Job, held: contextlib.ExitStack) -> bool:
        """Whether the run is to be done, and this worker's until `held` ends."""
        if self._sweep.state(job).state not in OPEN:
            return False
        # Somebody may have done it between the look and the claim.
        ours = held.enter_context(self._sweep.claim(job))
        return ours and not RunDir(self._sweep.run_dir(job)).result.exists()

    def _noted(self, plan: Plan, jobs: Group) -> None:
        """Trains, and leaves a note that only the death of this process leaves."""
        for job in jobs:
            self._sweep.begin(job)
        try:
            self._train(plan, jobs)
        finally:
            for job in jobs:
                self._sweep.end(job)

    def _train(self, plan: Plan, jobs: Group) -> None:
        if len(jobs) > 1:
            self._train_together(plan, jobs)
        else:
            self._train_alone(plan, jobs[0])

    def _train_alone(self, plan: Plan, job: Job) -> None:
        print(f'\n=== {job}', flush=True)
        run, reason = RunDir(self._sweep.run_dir(job)), partial(self._reason_to_stop, job)
        try:
            config = resolve(plan.config(plan.arm(job.arm), job.seed))
            outcome: Any = run_to_end(run, config, self._builder, reason)
        except Interrupted:  # saved, and no failure
            raise
        except Exhausted as e:
            outcome = explained(e, compiles=False)
        except Exception as e:  # one arm must not stop the others
            outcome = e
        self._tell(job, outcome)

    def _train_together(self, plan: Plan, jobs: Group) -> None:
        """Trains runs in one program; what that cannot do is left open, to be done alone."""
        print(f'\n=== {len(jobs)} together: {", ".join(map(str, jobs))}', flush=True)
        members = []
        for job in jobs:
            run, reason = RunDir(self._sweep.run_dir(job)), partial(self._reason_to_stop, job)
            try:
                config = resolve(plan.config(plan.arm(job.arm), job.seed))
                run.check(config)
                tell = partial(self._tell, job)
                members.append(Member(self._builder(config), run, tell, reason))
            except Exception as e:
                self._tell(job, e)
        try:
            if members:
                train_together(members)
        except Interrupted:
            raise
        except Exception as e:  # of the program that they share: memory, or what vmap cannot do
            print(f'together they cannot be trained, hence one after the other: {_words(e)}')
            self._alone.update(jobs)

    def _reason_to_stop(self, job: Job, run: RunDir) -> str:
        return self._studies.reason_to_stop(job, run)

    def _tell(self, job: Job, outcome: Any) -> None:
        """Records how a run ended: with its result, or what it raised."""
        run = RunDir(self._sweep.run_dir(job))
        if isinstance(outcome, UserError):
            self._sweep.fail(job, str(outcome))
            self._studies.tell(job, run, 'lost')
            print(f'{job} failed: {outcome}', flush=True)
        elif isinstance(outcome, Exception):
            details = ''.join(traceback.format_exception(outcome))
            self._sweep.fail(job, _words(outcome), details)
            self._studies.tell(job, run, 'fail')
            print(f'{job} failed:\n{details}', flush=True)
        else:
            self._studies.tell(job, run)
            how = outcome['stopped_early'] or f'done in {outcome["seconds"]:.0f} s'
            print(f'{job}: {how}', flush=True)


def _words(error: Exception) -> str:
    said = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {said[0]}'
