"""Several processes are one run: the same numbers, one stop, one restart (100 s on two cores)."""

import json
import pathlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest

from bigmodel import hosts, joining
from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.training.writers import read_jsonl
from bigmodel.watch import LOST
from tests.runs.test_resume import last_step

STEPS = 40
# Of a value; only the order in which devices' sums are added differs (measured: 4e-7).
TOLERANCE = 1e-5
Hosts = list[subprocess.Popen]


@pytest.fixture(scope='module')
def args(small_args: list[str]) -> list[str]:
    return ['train', *small_args, f'--config.num_steps={STEPS}', '--config.checkpoint.every=7']


@pytest.fixture(scope='module')
def together(start: Callable[..., subprocess.Popen]) -> Callable[..., Hosts]:
    """Starts `count` hosts with arguments; `own` are those of the last one alone."""

    def begin(count: int, devices: int, *args: str, own: tuple[str, ...] = ()) -> Hosts:
        with socket.socket() as free:
            free.bind(('localhost', 0))
            where = f'localhost:{free.getsockname()[1]}'
        flags = [f'--coordinator={where}', f'--num_hosts={count}']
        flags += [f'--config.sharding.host_devices={devices}']
        last = count - 1
        return [
            start(*args, *flags, f'--host={i}', *(own if i == last else ())) for i in range(count)
        ]

    return begin


def ended(processes: Hosts, codes: list[int]) -> list[tuple[str, str]]:
    """What each host said, when all have ended within a minute with these codes."""
    try:
        said = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    found = [process.returncode for process in processes]
    assert found == codes, '\n'.join(err for _, err in said)
    return said


def when(run: pathlib.Path, step: int, processes: Hosts) -> None:
    """Returns when the run has written this step."""
    until = time.monotonic() + 240  # of a machine that has much else to do
    while last_step(run) < step:
        assert time.monotonic() < until and all(p.poll() is None for p in processes)
        time.sleep(0.02)


def values(run: pathlib.Path) -> dict[tuple[int, str], list[float]]:
    times = ('seconds', 'tokens_per_second', 'step', 'split')
    return {
        (r['step'], r['split']): [v for k, v in sorted(r.items()) if k not in times]
        for r in read_jsonl(run / 'metrics.jsonl')
    }


def assert_same_numbers(run: pathlib.Path, other: pathlib.Path) -> None:
    ours, theirs = values(run), values(other)
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        np.testing.assert_allclose(found, theirs[key], rtol=TOLERANCE, err_msg=str(key))


@pytest.fixture(scope='module')
def single(
    args: list[str], launch: Callable, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    run = tmp_path_factory.mktemp('single') / 'run'
    launch(*args, '--config.sharding.host_devices=4', f'--workdir={run}')
    return run


def test_four_hosts_lose_one_and_two_and_then_one_go_on(args, single, together, launch, tmp_path):
    """Four of one device, one of which is killed; two of two, one of which is told to stop; one of
    four: the numbers are those of one process that nobody disturbed.
    """
    run = tmp_path / 'run'
    where = f'--workdir={run}'
    four = together(4, 1, *args, where, '--config.num_steps=40')
    when(run, 10, four)
    four[2].kill()
    said = ended(four, [LOST, LOST, -signal.SIGKILL, LOST])
    for host in (0, 1, 3):
        assert 'error: host 2 of 4' in said[host][1] and 'its last checkpoint' in said[host][1]
    assert 'was killed or aborted' in said[2][1]
    assert 'step' not in said[1][0]  # one host speaks

    two = together(2, 2, *args, where)
    when(run, 16, two)
    two[1].send_signal(signal.SIGTERM)
    said = ended(two, [143, 143])
    assert re.search(r'after step (7|14), on 2 hosts, 4 × cpu, .*before: 4 hosts, 4 ×', said[0][0])
    assert 'To resume: python' in said[0][0]
    stopped = last_step(run)
    assert (run / 'checkpoints' / str(stopped)).is_dir() and stopped < STEPS

    out = launch(*args, '--config.sharding.host_devices=4', where).stdout
    assert f'resumed after step {stopped}, on 1 hosts, 4 × cpu, mesh data=4; before: 2 hosts' in out
    assert_same_numbers(run, single)
    assert json.loads((run / 'run.json').read_text())['hosts'] == 1


def test_hosts_along_a_tensor_axis_read_the_same_rows(args, single, together, tmp_path):
    run = tmp_path / 'run'
    tensor = ('--config.sharding.mesh=data=1,tensor=2', '--config.sharding.rules=tensor')
    ended(together(2, 1, *args, *tensor, '--config.num_steps=4', f'--workdir={run}'), [0, 0])
    want = values(single)
    losses = [found for (step, split), found in values(run).items() if split == 'train']
    assert len(losses) == 4
    for step, found in enumerate(losses, 1):
        np.testing.assert_allclose(found[0], want[step, 'train'][0], rtol=TOLERANCE)


def test_the_death_of_the_first_host_is_explained_too(args, together, tmp_path):
    run = tmp_path / 'run'
    two = together(2, 1, *args, '--config.num_steps=2000', f'--workdir={run}')
    when(run, 3, two)
    two[0].kill()
    said = ended(two, [-signal.SIGKILL, -signal.SIGABRT])
    assert 'the first host of the run, which keeps the others together, has died' in said[1][1]


def test_hosts_that_differ_refuse_to_start(args, together, tmp_path):
    run = tmp_path / 'run'
    both = together(2, 1, *args, f'--workdir={run}', own=('--config.seed=7',))
    for _, err in ended(both, [2, 2]):
        assert re.search(r'config.seed: 0 on host 0 \(.*\), 7 on host 1', err)
    assert not run.exists()


def test_a_mistake_on_one_host_is_told_by_the_others(args, together, tmp_path):
    elsewhere = f'--workdir={tmp_path / "file"}'
    (tmp_path / 'file').touch()
    for _, err in ended(together(2, 1, *args, elsewhere), [2, 2]):
        assert 'is a file' in err


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--coordinator=here', '--num_hosts=2', '--host=0'], 'give all three'),
        (['--coordinator=a:1', '--num_hosts=2', '--host=2'], 'give all three'),
        (['--num_hosts=2'], 'need --coordinator'),
    ],
)
def test_mistakes_in_flags(flags, words, args, capsys):
    assert main([*args, *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ('environment', 'expected'),
    [
        ({}, None),
        ({'SLURM_NTASKS': '2'}, None),  # of an allocation, outside srun
        (
            {'SLURM_NTASKS': '8', 'SLURM_PROCID': '0', 'SLURM_STEP_NODELIST': 'n[1-2]'},
            {'cluster_detection_method': 'slurm'},
        ),
        (
            {
                'SLURM_NTASKS': '2',
                'SLURM_PROCID': '0',
                'SLURM_STEP_NODELIST': 'n[1-2]',
                'SLURM_TASKS_PER_NODE': '1(x2)',
            },
            {'cluster_detection_method': 'slurm', 'local_device_ids': []},
        ),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, {'cluster_detection_method': 'ompi'}),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, {}),
        ({'TPU_WORKER_HOSTNAMES': 'WARNING: not there, set it'}, None),
    ],
)
def test_where_the_hosts_are_found(environment, expected, monkeypatch):
    for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'TPU_WORKER_HOSTNAMES', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert joining.arguments('', 0, -1) == expected


def test_versions_that_differ_are_named(monkeypatch):
    told = [{'name': n, 'facts': {'jax': v}} for n, v in (('a', '0.10.2'), ('b', '0.11.0'))]
    monkeypatch.setattr(hosts, 'gather', lambda value: told)
    with pytest.raises(UserError, match=r"jax: '0.10.2' on host 0 \(a\), '0.11.0' on host 1 \(b\)"):
        hosts.check_alike({'jax': '0.10.2'})
