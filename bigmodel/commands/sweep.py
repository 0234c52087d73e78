"""`sweep`: plan, run, resume and watch the arms of a sweep file."""

import argparse
import pathlib
import subprocess
import sys
import time

from bigmodel.commands.launchers import LAUNCHERS
from bigmodel.commands.open_run import ROOT, config_path
from bigmodel.errors import UserError, unknown
from bigmodel.sweeps.folder import ENDED, OPEN, SweepDir
from bigmodel.sweeps.plan import Job, Plan, read_plan, selected, sweep_name
from bigmodel.sweeps.status import status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sweep`."""
    parser.add_argument('--arms', default='', help="names or patterns: 'rope* alibi'; '': all")
    parser.add_argument('--seeds', default='', help="of the sweep's: '0,1'; '': all")
    parser.add_argument('--list', action='store_true', help='print the arms and what they change')
    parser.add_argument('--plan', action='store_true', help='check and count, without running')
    parser.add_argument('--status', action='store_true', help='what --workdir has done so far')
    parser.add_argument('--follow', action='store_true', help='--status again and again')
    parser.add_argument('--workers', type=int, default=0, help='processes; 0: one a core or GPU')
    parser.add_argument(
        '--together',
        type=int,
        default=0,
        help='most runs of one program that a worker trains as one; 0: on CPU one, on '
        'accelerators as many as half of their memory holds',
    )
    parser.add_argument('--retry-failed', action='store_true', help='run failed arms again')
    parser.add_argument('--launcher', default='local', help=f'of workers: {", ".join(LAUNCHERS)}')
    parser.add_argument('--slurm', default='', help="'partition=gpu time=60 gpus_per_node=1'")
    parser.add_argument('--worker', default='', help='be worker I of N of --workdir: 0/4')


def run(args: argparse.Namespace) -> int:
    """Runs the sweep, or does what the options say; returns an exit code."""
    sweep = SweepDir(_workdir(args))
    if args.workers < 0:
        raise UserError(f'--workers={args.workers} must not be negative')
    if args.together < 0:
        raise UserError(f'--together={args.together} must not be negative')
    if args.status or args.follow:
        return _show_status(sweep, args.follow)
    if args.list:
        plan = read_plan(_config(args), args.overrides)
        return _list(plan, selected(plan, args.arms, args.seeds))
    if args.plan:
        return _preflight(args, sweep)
    if args.worker:
        return _be_worker(args, sweep)
    return _launch(args, sweep)


def _list(plan: Plan, jobs: tuple[Job, ...]) -> int:
    names = dict.fromkeys(job.arm for job in jobs)
    width = max(map(len, names))
    for name in names:
        changes = ', '.join(f'{k}={v}' for k, v in plan.arm(name).changes.items())
        print(f'{name:<{width}}  {changes or "the config as it is"}')
    for key, values in plan.search.get('space', {}).items():
        print(f'{key}: {", ".join(f"{k} {v}" for k, v in values.items())}')
    return 0


def _preflight(args: argparse.Namespace, sweep: SweepDir) -> int:
    """Checks and counts in this process, which takes the devices; writes the plan."""
    from bigmodel import devices
    from bigmodel.sweeps.budgets import with_measured
    from bigmodel.sweeps.local import num_workers
    from bigmodel.sweeps.preflight import check_runs, preflight
    from bigmodel.sweeps.search import adding, with_found
    from bigmodel.sweeps.table import table

    plan = read_plan(_config(args), args.overrides)
    jobs = selected(plan, args.arms, args.seeds)
    devices.configure(plan.base['sharding']['host_devices'], 1)
    if sweep.plan.exists():
        plan = with_measured(plan, sweep.read_plan())
    plan = preflight(plan)
    with adding(sweep):
        plan = with_found(sweep, plan)
        check_runs(sweep, plan)
        sweep.write_plan(plan)
    machine = plan.machine
    most = len(jobs) + _to_come(args, plan)
    workers = num_workers(args.workers, machine['platform'], machine['devices'], most)
    print(f'{plan.name}: {plan.question}\n\n{table(plan, jobs, workers)}', flush=True)
    return 0


def _launch(args: argparse.Namespace, sweep: SweepDir) -> int:
    if args.launcher not in LAUNCHERS:
        raise unknown('--launcher', args.launcher, LAUNCHERS)
    launcher = LAUNCHERS[args.launcher](args, sweep)
    code = _plan_apart(args)
    if code:
        return code
    plan = sweep.read_plan()
    jobs = selected(plan, args.arms, args.seeds)
    if args.retry_failed:
        for job in jobs:
            sweep.forgive(job)
    left = [job for job in jobs if sweep.state(job).state in OPEN]
    return launcher(plan, jobs, left, _to_come(args, plan))


def _to_come(args: argparse.Namespace, plan: Plan) -> int:
    """Arms that a search is to find: none where arms or seeds are chosen."""
    return 0 if args.arms or args.seeds else plan.to_come


def _plan_apart(args: argparse.Namespace) -> int:
    """`--plan` in a process of its own, so that this one holds no device while workers need them;
    returns its exit code.
    """
    overrides = [f'--config.{key}={text}' for key, text in args.overrides]
    options = ('config', 'workdir', 'arms', 'seeds', 'workers')
    given = [f'--{name}={value}' for name in options if (value := getattr(args, name))]
    command = [sys.executable, str(ROOT / 'launch.py'), 'sweep', '--plan', *given, *overrides]
    return subprocess.run(command, check=False).returncode


def _be_worker(args: argparse.Namespace, sweep: SweepDir) -> int:
    from bigmodel import devices
    from bigmodel.data.locks import exclusive
    from bigmodel.sweeps.worker import Worker
    from bigmodel.training.signals import Interrupted

    index, count = _share(args.worker)
    if args.config:  # of workers that a scheduler starts, the first one plans
        with exclusive(sweep.path.with_name(f'{sweep.path.name}.lock')):
            code = 0 if sweep.plan.exists() else _plan_apart(args)
        if code:
            return code
    plan = sweep.read_plan()
    if args.config and (plan.source, plan.overrides) != (_config(args), tuple(args.overrides)):
        raise UserError(
            f'{sweep.path} holds the plan of {plan.source} with the overrides {plan.overrides}; '
            f'give the same --config and overrides, or neither'
        )
    jobs = selected(plan, args.arms, args.seeds)
    devices.configure(plan.base['sharding']['host_devices'], 1)
    try:
        worker = Worker(sweep, index, count, args.together)
        worker.work(jobs, search=not (args.arms or args.seeds))
    except Interrupted as e:
        print(e, flush=True)
        return 128 + e.signum
    return 0


def _share(text: str) -> tuple[int, int]:
    index, slash, count = text.partition('/')
    if not slash or not index.isdecimal() or not count.isdecimal() or int(index) >= int(count):
        raise UserError(f'--worker={text}: write I/N with I from 0 to N - 1, such as 0/4')
    return int(index), int(count)


def _show_status(sweep: SweepDir, follow: bool) -> int:
    while True:
        plan = sweep.read_plan()
        text = status(plan, sweep.states(plan))
        if not follow:
            print(text)
            return 0
        print(f'\x1b[2J\x1b[H{sweep.path}  {time.strftime("%H:%M:%S")}\n\n{text}', flush=True)
        left = [run for run in sweep.states(plan) if run.state not in ENDED]
        if not left and not plan.to_come:
            return 0
        time.sleep(2)


def _config(args: argparse.Namespace) -> str:
    if not args.config:
        raise UserError('--config=FILE is needed, a file that defines sweep()')
    return config_path(args.config)


def _workdir(args: argparse.Namespace) -> pathlib.Path:
    """`--workdir`, or runs/<name of the sweep>."""
    if args.workdir:
        return pathlib.Path(args.workdir)
    return pathlib.Path('runs') / sweep_name(_config(args), args.overrides)
