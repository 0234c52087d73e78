"""The launcher `local`: worker processes of this machine, which share its devices."""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE = 60.0  # seconds that a stopped run has to save itself


def num_workers(asked: int, platform: str, devices: int, jobs: int) -> int:
    """How many workers: `asked`, or one a core (CPU) or a device, as many as there are jobs.

    The chips of a TPU cannot be shared out among processes, which is one worker.
    """
    there = {'cpu': len(os.sched_getaffinity(0)), 'gpu': devices}.get(platform, 1)
    return max(1, min(asked or there, jobs))


def environment(index: int, count: int, platform: str, devices: int) -> dict[str, str]:
    """Of worker `index`: its GPUs, or its part of the memory of one that several workers share."""
    environ = dict(os.environ)
    if platform == 'gpu':
        shown = environ.get('CUDA_VISIBLE_DEVICES', '')
        names = shown.split(',') if shown else [str(i) for i in range(devices)]
        sharing = -(-count // devices)
        mine = names[index % devices :: count] if sharing == 1 else [names[index % devices]]
        environ['CUDA_VISIBLE_DEVICES'] = ','.join(mine)
        if sharing > 1:
            environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{0.9 / sharing:.2f}'
    return environ


def launch(
    arguments: Sequence[str],
    logs: pathlib.Path,
    environments: Sequence[dict[str, str]],
    watch: Callable[[], None],
    every: float = 1.0,
) -> int:
    """Starts `launch.py sweep *arguments --worker=I/N` once for each environment and waits for all.

    Calls `watch` now and then. The workers save what they do after SIGINT, SIGTERM or SIGHUP, and
    on Linux when this process is killed. Returns 0, or the exit code of one that ended badly.
    """
    count = len(environments)
    workers = []
    for index, environ in enumerate(environments):
        command = [sys.executable, str(ROOT / 'launch.py'), 'sweep', *arguments]
        with open(logs / f'worker-{index}.log', 'a') as log:
            workers.append(
                subprocess.Popen(
                    [*command, f'--worker={index}/{count}'],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    start_new_session=True,  # a Ctrl-C reaches them through us alone
                    preexec_fn=ending_with_us(),
                )
            )
    caught: list[int] = []
    old = {s: signal.signal(s, lambda n, _: caught.append(n)) for s in SIGNALS}
    try:
        while any(worker.poll() is None for worker in workers) and not caught:
            time.sleep(every)
            watch()
    finally:  # also when `watch` has nowhere to write
        _stop(workers)
        for s, handler in old.items():
            signal.signal(s, handler)
    if caught:
        return 128 + caught[0]
    for index, worker in enumerate(workers):
        if worker.returncode < 0:
            name = signal.Signals(-worker.returncode).name
            print(f'worker {index} was killed by {name}; see {logs}/worker-{index}.log', flush=True)
    return next((abs(worker.returncode) for worker in workers if worker.returncode), 0)


def ending_with_us() -> Callable[[], None]:
    """What a new process calls before its program, so that it has a SIGTERM when this one dies."""
    if sys.platform != 'linux':
        return lambda: None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return ask


def _stop(workers: Sequence[subprocess.Popen]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
