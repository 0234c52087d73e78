"""The launcher `slurm`: on a SLURM of two cores that the test brings up, where there is one."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.sweeps import slurm
from bigmodel.sweeps.folder import SweepDir
from bigmodel.training.writers import read_jsonl

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun')
CONF = """
ClusterName=tests
SlurmctldHost={host}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort=16827
SlurmdPort=16828
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=60
NodeName={host} CPUs=2 CoresPerSocket=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
LIMIT = 900.0  # seconds that a state is waited for
TWO = "Sweep(grid({'optimizer.learning_rate': (1e-3, 1e-2)}))"


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.getuid():
        pytest.skip(f'needs root and SLURM: {", ".join(missing)} not there')
    pytest.importorskip('submitit')
    folder, host = tmp_path_factory.mktemp('slurm'), socket.gethostname().partition('.')[0]
    (folder / 'state').mkdir()
    (folder / 'spool').mkdir()
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = folder / 'slurm.conf'
    conf.write_text(CONF.format(host=host, folder=folder))
    old = os.environ.get('SLURM_CONF')
    os.environ['SLURM_CONF'] = str(conf)
    munge = {'socket': 'munge.socket', 'pid-file': 'munged.pid', 'log-file': 'munge.log'} | {
        'seed-file': 'munge.seed',
        'key-file': 'munge.key',
    }
    flags = [f'--{name}={folder}/{file}' for name, file in munge.items()]
    try:
        subprocess.run(['munged', '--force', *flags], check=True)
        subprocess.run(['slurmctld', '-c'], check=True)
        subprocess.run(['slurmd'], check=True)
        wait(lambda: 'idle' in said('sinfo', '-h', '-o', '%T'))
        yield
    finally:
        subprocess.run(['scancel', '--user=root'], check=False, timeout=30)
        until = time.monotonic() + 90  # nobody else would end what is still running
        while said('squeue', '-h').strip() and time.monotonic() < until:
            time.sleep(0.3)
        for name in ('slurmd', 'slurmctld', 'munged'):
            if (folder / f'{name}.pid').exists():
                os.kill(int((folder / f'{name}.pid').read_text()), signal.SIGTERM)
        os.environ.pop('SLURM_CONF')
        if old is not None:
            os.environ['SLURM_CONF'] = old


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait(holds: Callable[[], bool]) -> None:
    """Until it does; the limit is of a machine that does much else, and its end says what is."""
    until = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < until, said('sinfo') + said('scontrol', 'show', 'job')
        time.sleep(0.3)


def saved_steps(run: pathlib.Path) -> list[int]:
    return [int(p.name) for p in run.glob('checkpoints/*') if p.name.isdecimal()]


def last_step(run: pathlib.Path) -> int:
    return max((r['step'] for r in read_jsonl(run / 'metrics.jsonl')), default=0)


def launch(config: str, folder: pathlib.Path, *arguments: str) -> int:
    options = ('--launcher=slurm', '--workers=2', '--slurm=time=20 partition=main')
    return main(['sweep', f'--config={config}', f'--workdir={folder}', *options, *arguments])


def test_a_job_array_does_a_sweep(write, tmp_path, cluster, capfd) -> None:
    folder = tmp_path / 'sweep'
    assert launch(write(TWO), folder) == 0
    assert 'queued as ' in capfd.readouterr().out
    sweep = SweepDir(folder)
    wait(lambda: all(run.state == 'done' for run in sweep.states(sweep.read_plan())))
    assert launch(write(TWO), folder) == 0
    assert '2 done' in capfd.readouterr().out


def test_a_job_that_is_warned_saves_and_goes_on(write, tmp_path, cluster) -> None:
    folder = tmp_path / 'sweep'
    # Too many steps to be done before the warning comes, however late.
    config = write("Sweep([{'num_steps': 1000000, 'log_every': 1, 'name': 'long'}])")
    assert launch(config, folder) == 0
    run = folder / 'long' / 'seed0'
    wait(lambda: last_step(run) >= 3)
    job = said('squeue', '-h', '-o', '%A').split()[0]
    subprocess.run(['scancel', job, '--signal=USR2'], check=True)
    wait(lambda: 'Restarts=1' in said('scontrol', 'show', 'job', job))
    saved = max(saved_steps(run))  # before it was queued again
    assert 3 <= saved <= last_step(run)

    # The node refuses a job that starts in the second in which it was queued again ('credential
    # revoked'), and SLURM then gives it up.
    time.sleep(3)

    def goes_on() -> bool:
        # SLURM holds back for two minutes a job that was queued again; this test doesn't.
        if 'PENDING' in said('squeue', '-h', '-j', job, '-o', '%T'):
            subprocess.run(['scontrol', 'update', f'jobid={job}', 'StartTime=now'], check=False)
        return last_step(run) >= saved + 5

    wait(goes_on)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--launcher=slrum'], "unknown --launcher 'slrum'. Did you mean 'slurm'"),
        (['--slurm=time=3'], '--slurm is of --launcher=slurm'),
        (['--launcher=slurm', '--slurm=time=3'], 'needs --workers=N'),
        (['--launcher=slurm', '--slurm=partitoin=x'], "Did you mean 'partition'"),
        (['--launcher=slurm', '--slurm=time=soon'], 'must be a whole number of minutes'),
        (['--launcher=slurm', '--slurm=partition=x'], "needs --slurm='time=MINUTES'"),
        (['--launcher=slurm', '--slurm=gpu'], "write 'key=value key=value'"),
    ],
)
def test_mistakes(write, options, words, capsys) -> None:
    assert main(['sweep', f'--config={write(TWO)}', *options]) == 2
    assert words in capsys.readouterr().err


def test_what_is_missing_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(UserError, match='pip install submitit'):
        slurm.executor(tmp_path, {'time': 3})


def test_without_slurm_there_is_another_way(monkeypatch, tmp_path) -> None:
    pytest.importorskip('submitit')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match=r'no SLURM.*--worker=I/N'):
        slurm.executor(tmp_path, {'time': 3})


def test_workers_run_with_submitit_alone(write, tmp_path, monkeypatch) -> None:
    """Its local executor takes what SLURM's does, on a machine without SLURM."""
    submitit = pytest.importorskip('submitit')
    folder = tmp_path / 'sweep'
    assert main(['sweep', '--plan', f'--config={write(TWO)}', f'--workdir={folder}']) == 0
    monkeypatch.chdir(slurm.ROOT)
    executor = submitit.LocalExecutor(folder / 'logs')
    executor.update_parameters(timeout_min=5)
    job = executor.submit(slurm.Worker(['sweep', f'--workdir={folder}', '--worker=0/1']))
    assert job.result() == 0
    sweep = SweepDir(folder)
    assert [run.state for run in sweep.states(sweep.read_plan())] == ['done', 'done']
