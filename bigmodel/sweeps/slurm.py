"""The launcher `slurm`: workers as a job array, by submitit."""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError, nearest
from bigmodel.sweeps.local import GRACE, ROOT, ending_with_us

# What --slurm may set: options of sbatch, with '_' for '-'; `time` and `signal_delay_s` are
# submitit's, in minutes and in seconds.
OPTIONS = (
    'account',
    'array_parallelism',
    'comment',
    'constraint',
    'cpus_per_gpu',
    'cpus_per_task',
    'dependency',
    'exclude',
    'exclusive',
    'gpus_per_node',
    'gpus_per_task',
    'gres',
    'job_name',
    'mail_type',
    'mail_user',
    'mem',
    'mem_per_cpu',
    'mem_per_gpu',
    'nodelist',
    'partition',
    'qos',
    'signal_delay_s',
    'time',
    'wckey',
)
TIMES = 100  # that a job is queued again because its time was over
NUMBERS = ('array_parallelism', 'signal_delay_s', 'time', 'cpus_per_task', 'cpus_per_gpu')


class Worker:
    """One task of the array: `launch.py` with these arguments in a process of its own.

    Before its time is over, or when another job takes its place, it saves and is queued again.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Works until nothing is left; raises where the worker ended badly."""
        command = [sys.executable, str(ROOT / 'launch.py'), *self.arguments]
        # SLURM warns every process of the job alike; this one says what to do about it.
        self._process = subprocess.Popen(command, preexec_fn=_before(ending_with_us()))
        while self._process.poll() is None:  # a blocking wait would lock out that of `checkpoint`
            time.sleep(0.5)
        code = self._process.returncode
        # The first task alone queues the job again; the others of it stop with that one's run.
        stopped = code == 128 + signal.SIGTERM and os.environ.get('SLURM_PROCID', '0') != '0'
        if code and not stopped:
            raise RuntimeError(f'the worker ended with exit code {code}')
        return code

    def checkpoint(self) -> Any:
        """Called by submitit when the job is about to end: what is queued in its place."""
        import submitit

        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        return submitit.helpers.DelayedSubmission(Worker(self.arguments))


def options(text: str, flag: str = '--slurm', more: Sequence[str] = ()) -> dict[str, Any]:
    """Of `--slurm='partition=gpu time=60'`; raises UserError for one that is none.

    `more` are whole numbers that OPTIONS lacks.
    """
    given: dict[str, Any] = dict(config_lib.pairs(text, flag))
    known = (*OPTIONS, *more)
    for key, value in given.items():
        if key not in known:
            raise UserError(
                f'{flag} has no option {key!r}.{nearest(key, known)} Options: {", ".join(known)}'
            )
        if key in (*NUMBERS, *more):
            if not value.isdecimal():
                unit = {'time': ' of minutes', 'signal_delay_s': ' of seconds'}.get(key, '')
                raise UserError(f'{flag}: {key}={value} must be a whole number{unit}')
            given[key] = int(value)
    if 'time' not in given:
        raise UserError(
            f"--launcher=slurm needs {flag}='time=MINUTES', of each job, and what else "
            f'your cluster asks for, such as partition=. Options: {", ".join(known)}'
        )
    return given


def executor(folder: pathlib.Path, given: dict[str, Any], code: pathlib.Path = ROOT) -> Any:
    """Of submitit, which writes its scripts and logs to `folder` and runs the checkout `code`;
    raises UserError where submitit or SLURM is missing.
    """
    try:
        import submitit
    except ImportError as e:
        raise UserError('--launcher=slurm needs submitit: pip install submitit') from e
    try:
        found = submitit.SlurmExecutor(folder, max_num_timeout=TIMES)
    except RuntimeError as e:  # no srun
        raise UserError(
            '--launcher=slurm: this machine has no SLURM (srun is not there); start this on a '
            'login node, or give each worker of a sweep its share by hand: --worker=I/N'
        ) from e
    found.update_parameters(
        setup=[f'export PYTHONPATH={shlex.quote(str(code))}:$PYTHONPATH'], **given
    )
    return found


def submit(executor: Any, arguments: Sequence[str], count: int) -> list[str]:
    """Queues `launch.py sweep *arguments --worker=I/N` for each of `count` workers; returns the ids
    of their jobs. Raises UserError with what sbatch says when it refuses.
    """
    workers = [Worker(['sweep', *arguments, f'--worker={i}/{count}']) for i in range(count)]
    return submit_all(executor, workers)


def submit_all(executor: Any, workers: Sequence[Worker]) -> list[str]:
    """Queues workers; returns the ids of their jobs. Raises UserError when sbatch refuses."""
    import submitit

    try:
        jobs = executor.submit_array(workers)
    except submitit.core.utils.FailedJobError as e:
        raise UserError(f'--launcher=slurm: sbatch refused: {e}') from e
    return [job.job_id for job in jobs]


def _before(ending_with_us: Callable[[], None]) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        ending_with_us()

    return prepare
