"""Where the workers of a sweep run: `--launcher` of the command `sweep`."""

import argparse
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.sweeps.folder import ENDED, RunState, SweepDir, metric_of
from bigmodel.sweeps.plan import Job, Plan, selected
from bigmodel.sweeps.status import summary

Jobs = Sequence[Job]


class Local:
    """Worker processes of this machine, which are waited for."""

    def __init__(self, args: argparse.Namespace, sweep: SweepDir) -> None:
        if args.slurm:
            raise UserError('--slurm is of --launcher=slurm; add that, or leave it out')
        self._args, self._sweep = args, sweep

    def __call__(self, plan: Plan, jobs: Jobs, left: Jobs, to_come: int) -> int:
        """Does what is `left` of `jobs` and `to_come` of a search, and says what became of all;
        returns an exit code.
        """
        code = self._work(plan, jobs, left, to_come) if left or to_come else 0
        plan = self._sweep.read_plan()
        jobs = selected(plan, self._args.arms, self._args.seeds)
        runs = [self._sweep.state(job) for job in jobs]
        print(f'\n{summary(plan, runs)}')
        if code >= 128:
            print(f'stopped; the same command goes on in {self._sweep.path}', flush=True)
            return code
        print(f'report: python launch.py report {self._sweep.path}')
        if all(run.state in ('done', 'pruned') for run in runs):
            return 0
        if any(run.state == 'failed' for run in runs):
            print('failed runs are tried again with --retry-failed')
        return code or 1

    def _work(self, plan: Plan, jobs: Jobs, left: Jobs, to_come: int) -> int:
        from bigmodel.sweeps import local

        sweep, machine = self._sweep, plan.machine
        platform, devices = machine['platform'], machine['devices']
        count = local.num_workers(self._args.workers, platform, devices, len(left) + to_come)
        environments = [local.environment(i, count, platform, devices) for i in range(count)]
        print(f'\n{_words(jobs, left, to_come)}; logs in {sweep.logs}', flush=True)
        watch = Watch(sweep, plan)
        code = local.launch(_to_workers(self._args, sweep), sweep.logs, environments, watch)
        watch()
        return code


class Slurm:
    """Workers as a job array of a cluster, which are queued and left alone."""

    def __init__(self, args: argparse.Namespace, sweep: SweepDir) -> None:
        from bigmodel.sweeps import slurm

        self._args, self._sweep, self._options = args, sweep, slurm.options(args.slurm)
        if args.workers < 1:
            raise UserError('--launcher=slurm needs --workers=N, how many jobs to queue')
        self._executor = slurm.executor(sweep.logs.resolve(), self._options)

    def __call__(self, plan: Plan, jobs: Jobs, left: Jobs, to_come: int) -> int:
        """Queues workers for what is `left` of `jobs` and `to_come` of a search; returns an exit
        code.
        """
        from bigmodel.sweeps import slurm

        if not left and not to_come:
            print(f'\n{summary(plan, [self._sweep.state(job) for job in jobs])}')
            return 0
        count, where = min(self._args.workers, len(left) + to_come), self._sweep.path
        ids = slurm.submit(self._executor, _to_workers(self._args, self._sweep), count)
        print(
            f'\n{_words(jobs, left, to_come)}; queued as {", ".join(ids)}, logs in '
            f'{self._sweep.logs}\nwatch: python launch.py sweep --workdir={where} --follow\n'
            'A job whose time ends, or that another displaces, saves and is queued again; after '
            'anything else the same command goes on.',
            flush=True,
        )
        return 0


LAUNCHERS = {'local': Local, 'slurm': Slurm}


class Watch:
    """Says what has changed since it was last called."""

    def __init__(self, sweep: SweepDir, plan: Plan) -> None:
        self._sweep = sweep
        self._said = {run.job for run in sweep.states(plan) if run.state != 'waiting'}

    def __call__(self) -> None:
        """Prints a line for each run that has ended."""
        plan = self._sweep.read_plan()  # a search adds to it
        runs = self._sweep.states(plan)
        for run in runs:
            if run.state in ENDED and run.job not in self._said:
                self._said.add(run.job)
                value = run.reason or _value(plan, run)
                print(
                    f'{run.job!s:<40} {run.state}  {value}   [{summary(plan, runs)}]',
                    flush=True,
                )


def _words(jobs: Jobs, left: Jobs, to_come: int) -> str:
    """'3 of 4 runs to do, and 30 to be found'."""
    found = f', and {to_come} to be found' if to_come else ''
    return f'{len(left)} of {len(jobs)} runs to do{found}'


def _value(plan: Plan, run: RunState) -> str:
    found = metric_of(run.records, plan.metric)
    seconds = run.result['seconds']
    return f'{plan.metric} {found[-1][1]:.4f} in {seconds:.0f} s' if found else f'{seconds:.0f} s'


def _to_workers(args: argparse.Namespace, sweep: SweepDir) -> list[str]:
    options = {name: getattr(args, name) for name in ('arms', 'seeds', 'together')}
    return [f'--workdir={sweep.path.resolve()}', *(f'--{k}={v}' for k, v in options.items())]
