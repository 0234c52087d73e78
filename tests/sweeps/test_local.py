"""How many workers of a machine there are, and what each of them sees."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bigmodel.sweeps.local import environment, num_workers


@pytest.mark.parametrize(
    ('count', 'devices', 'seen', 'memory'),
    [
        (1, 4, ['0,1,2,3'], None),
        (2, 4, ['0,2', '1,3'], None),
        (4, 4, ['0', '1', '2', '3'], None),
        (3, 2, ['0', '1', '0'], '0.45'),
        (4, 1, ['0', '0', '0', '0'], '0.23'),
    ],
)
def test_workers_share_the_gpus(monkeypatch, count, devices, seen, memory) -> None:
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
    environments = [environment(i, count, 'gpu', devices) for i in range(count)]
    assert [e['CUDA_VISIBLE_DEVICES'] for e in environments] == seen
    assert {e.get('XLA_PYTHON_CLIENT_MEM_FRACTION') for e in environments} == {memory}


def test_gpus_that_are_not_ours_stay_hidden(monkeypatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7')
    assert environment(1, 2, 'gpu', 2)['CUDA_VISIBLE_DEVICES'] == '7'
    assert environment(1, 2, 'cpu', 2)['CUDA_VISIBLE_DEVICES'] == '5,7'


def test_the_number_of_workers() -> None:
    assert num_workers(0, 'gpu', 8, 20) == 8
    assert num_workers(0, 'gpu', 8, 3) == 3
    assert num_workers(5, 'gpu', 8, 20) == 5
    assert num_workers(0, 'tpu', 8, 20) == 1
    assert num_workers(0, 'cpu', 1, 1) == 1


WORKER = """
import pathlib, signal, sys, time

folder = pathlib.Path(__file__).parent
name = sys.argv[-1].partition('=')[2].replace('/', '-')


def save(signum, frame):
    (folder / f'{name}.saved').touch()
    sys.exit()


signal.signal(signal.SIGTERM, save)
(folder / f'{name}.begun').touch()
time.sleep(60)
"""
LAUNCHER = """
import os, pathlib
from bigmodel.sweeps import local

local.ROOT = folder = pathlib.Path({folder!r})
local.launch([], folder, [dict(os.environ)] * 2, lambda: None)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='others cannot ask for it')
def test_workers_save_and_stop_when_their_parent_is_killed(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'launch.py').write_text(WORKER)
    parent = subprocess.Popen([sys.executable, '-c', LAUNCHER.format(folder=str(tmp_path))])
    try:
        _await(tmp_path, '*.begun')
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _await(tmp_path, '*.saved')


def _await(folder: pathlib.Path, pattern: str) -> None:
    until = time.monotonic() + 30
    while len(list(folder.glob(pattern))) < 2:
        assert time.monotonic() < until, f'{pattern} are not there'
        time.sleep(0.05)
