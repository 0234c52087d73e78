"""A worker trains the runs of a sweep that nobody else does, one after the other.

Any number of workers may share a directory, on one machine or on many that see it: a lock says who
does what, and dies with its holder. So the share `index` of `count` only says where a worker
begins.
"""

import traceback
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.inference.run_to_end import run_to_end
from bigmodel.sweeps.folder import OPEN, SweepDir
from bigmodel.sweeps.plan import Job, Plan
from bigmodel.sweeps.preflight import Builder
from bigmodel.sweeps.search import open_search
from bigmodel.sweeps.studies import NoStudies
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import resolve
from bigmodel.training.signals import Interrupted

MOST_DEATHS = 2  # of processes, of which a run may be the cause


def work(sweep: SweepDir, jobs: Sequence[Job], index: int, count: int, search: bool = True) -> None:
    """Trains what is open of `jobs`, until nothing is that nobody works on; then, with `search`,
    what a search proposes.

    A run that fails is recorded and leaves the others alone. Raises Interrupted after a signal.
    """
    plan, builder = sweep.read_plan(), Builder()
    studies = open_search(sweep, plan)
    turns = in_turn(plan, jobs, index, count)
    while True:
        while any([_try(sweep, job, builder, studies) for job in turns]):
            pass  # what another worker left may be open again
        found = studies.ask(builder) if search else ()
        if not found:
            return
        turns = [*found, *turns]


def _try(sweep: SweepDir, job: Job, builder: Builder, studies: NoStudies) -> bool:
    """Whether this worker had to do the run, and has."""
    if sweep.state(job).state not in OPEN:
        return False
    with sweep.claim(job) as ours:
        # Somebody may have done it between the look and the claim.
        if not ours or RunDir(sweep.run_dir(job)).result.exists():
            return False
        plan = sweep.read_plan()  # it may have been made anew, and a search adds to it
        if job not in plan.jobs:
            return False
        if sweep.deaths(job) >= MOST_DEATHS:
            sweep.fail(job, f'its process died {MOST_DEATHS} times while it ran (of memory?)')
            return True
        sweep.begin(job)
        try:
            _train(sweep, plan, job, builder, studies)
        finally:  # what only the death of this process leaves out
            sweep.end(job)
        return True


def in_turn(plan: Plan, jobs: Sequence[Job], index: int, count: int) -> list[Job]:
    """All of `jobs`, a worker's own share first: whole programs, so that few compile one twice.

    Every seed of the first is before the next, so that what is done can be compared.
    """
    programs = {arm.name: arm.facts['program'] for arm in plan.arms}
    own = [job for job in jobs if programs[job.arm] % count == index]
    if len(set(programs[job.arm] for job in jobs)) < count:  # too few programs to go round
        own = list(jobs[index::count])
    return [*own, *(job for job in jobs if job not in own)]


def _train(sweep: SweepDir, plan: Plan, job: Job, builder: Builder, studies: NoStudies) -> None:
    run = RunDir(sweep.run_dir(job))
    config = resolve(plan.config(plan.arm(job.arm), job.seed))
    print(f'\n=== {job}', flush=True)
    try:
        result = run_to_end(run, config, builder, lambda run: studies.reason_to_stop(job, run))
    except Interrupted:  # saved, and no failure
        raise
    except UserError as e:
        sweep.fail(job, str(e))
        studies.tell(job, run, 'lost')
        print(f'failed: {e}', flush=True)
    except Exception as e:  # one arm must not stop the others
        details = traceback.format_exc()
        said = str(e).strip().splitlines() or ['']
        sweep.fail(job, f'{type(e).__name__}: {said[0]}', details)
        studies.tell(job, run, 'fail')
        print(details, flush=True)
    else:
        studies.tell(job, run)
        print(result['stopped_early'] or f'done in {result["seconds"]:.0f} s', flush=True)
