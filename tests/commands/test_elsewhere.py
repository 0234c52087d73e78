"""`train --launcher`: what is run elsewhere, with stand-ins for what reaches it (15 s)."""

import json
import os
import pathlib
import re
import stat
import sys
from collections.abc import Callable

import pytest

from bigmodel.commands.main import main
from bigmodel.launching import command, google
from tests.commands.conftest import base

TPU = '--pod=name=n zone=z type=v5litepod-256 version=v2 spot=1'
RECORD = (
    '#!{python}\nimport json, os, sys\nopen({log!r}, "a").write(json.dumps(sys.argv) + "\\n")\n'
)


@pytest.fixture
def stand_in(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Puts a program on PATH that records its arguments and goes on with `code`."""
    folder, log = tmp_path / 'bin', str(tmp_path / 'calls')
    folder.mkdir()
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    monkeypatch.setattr(command, 'check_committed', lambda: None)
    monkeypatch.setattr(google, 'check_committed', lambda: None)
    monkeypatch.setattr(google, 'POLL', 0.01)

    def add(name: str, code: str = '') -> Callable[[], list[list[str]]]:
        file = folder / name
        file.write_text(RECORD.format(python=sys.executable, log=log) + code)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return lambda: [json.loads(line) for line in pathlib.Path(log).read_text().splitlines()]

    return add


def train(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, 'argv', ['launch.py', 'train', *argv])
    return main(['train', *argv])


def verbs(calls: list[list[str]]) -> list[str]:
    return [call[4] for call in calls]


def test_by_default_commands_are_shown_and_nothing_runs(stand_in, monkeypatch, tmp_path, capsys):
    stand_in('gcloud')
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--config.num_steps=5') == 0
    out = capsys.readouterr().out
    assert 'queued-resources create n --node-id=n --zone=z' in out and '--spot' in out
    assert 'launch.py train --config.num_steps=5' in out and '--launcher' not in out
    assert not (tmp_path / 'calls').exists()


def test_a_slice_is_made_used_and_torn_down(stand_in, monkeypatch):
    """The states that gcloud tells: waiting twice, then there."""
    calls = stand_in('gcloud', STATES.format(states=['WAITING_FOR_RESOURCES', 'ACTIVE'], fail=0))
    assert train(monkeypatch, '--launcher', 'tpu_vm', TPU, '--dry_run=false') == 0
    assert verbs(calls()) == ['create', 'describe', 'describe', 'scp', 'ssh', 'ssh', 'delete']
    assert calls()[-2][-1] == 'cd bigmodel && exec .venv/bin/python launch.py train'
    assert '--worker=all' in calls()[-2]


# Answers `describe` with these states, one a call, and lets the first `fail` starts end badly.
STATES = """
state = __file__ + '.state'
count = lambda name: len(open(name).read()) if os.path.exists(name) else 0
if 'describe' in sys.argv:
    states = {states}
    print(states[min(count(state), len(states) - 1)])
    open(state, 'a').write('.')
if 'launch.py' in sys.argv[-1]:
    open(state + '.start', 'a').write('.')
    sys.exit(255 if count(state + '.start') <= {fail} else 0)
"""


def test_a_preempted_slice_is_queued_again(stand_in, monkeypatch, capsys):
    states = ['ACTIVE', 'SUSPENDED', 'ACTIVE']
    calls = stand_in('gcloud', STATES.format(states=states, fail=1))
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 0
    assert verbs(calls()).count('create') == verbs(calls()).count('delete') == 2
    assert 'preempted; queued again' in capsys.readouterr().out


def test_a_run_that_fails_is_not_tried_again_and_leaves_nothing(stand_in, monkeypatch):
    calls = stand_in('gcloud', STATES.format(states=['ACTIVE'], fail=9))
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 255
    assert verbs(calls()).count('create') == verbs(calls()).count('delete') == 1


def test_a_slice_that_cannot_be_made_is_said(stand_in, monkeypatch, capsys):
    calls = stand_in('gcloud', STATES.format(states=['FAILED'], fail=0))
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 2
    assert verbs(calls())[-1] == 'delete'
    assert 'cannot be made' in capsys.readouterr().err


def test_without_credentials_the_fix_is_said(stand_in, monkeypatch, capsys):
    stand_in('gcloud', 'sys.exit(1)')
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 2
    assert 'gcloud auth login' in capsys.readouterr().err


def test_a_workload_is_queued_followed_and_removed(stand_in, monkeypatch):
    stand_in('kubectl')
    calls = stand_in('xpk')
    pod = '--pod=name=n cluster=c zone=z type=v5litepod-256 slices=2 retries=3'
    assert train(monkeypatch, '--launcher=gke', pod, '--dry_run=false', '--config.seed=4') == 0
    create, log, delete = calls()
    (folder,) = (a.partition('=')[2] for a in create if a.startswith('--script-dir='))
    assert (pathlib.Path(folder) / 'launch.py').exists()
    assert create[1:3] == ['workload', 'create'] and '--num-slices=2' in create
    assert '--max-restarts=3' in create and 'launch.py train --config.seed=4' in create[-1]
    assert log[1:3] == ['logs', '--follow'] and delete[1:3] == ['workload', 'delete']


def test_hosts_by_ssh_train_one_run(stand_in, monkeypatch, tmp_path):
    """A stand-in that runs what ssh would send: two processes, really trained."""
    code = 'words = [w for w in sys.argv[1:] if w != "-tt"][1:]\n'
    code += 'os.execvp("bash", ["bash", "-c", *words])\n'
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('bigmodel.launching.ssh.check_committed', lambda: None)
    calls = stand_in('ssh', code)
    (tmp_path / 'words.txt').write_text('one two three four five six ' * 400)
    run = tmp_path / 'run'
    pod = f'--pod=hosts=localhost,localhost port={free_port()} python={sys.executable}'
    small = [a for a in base(tmp_path / 'words.txt') if a.startswith('--config')]
    args = [*small, f'--config.data.path={tmp_path / "words.txt"}', '--config.num_steps=2']
    assert (
        train(monkeypatch, '--launcher=ssh', pod, '--dry_run=false', *args, f'--workdir={run}') == 0
    )
    assert json.loads((run / 'run.json').read_text())['hosts'] == 2
    assert json.loads((run / 'result.json').read_text())['steps'] == 2
    assert (tmp_path / 'bigmodel' / 'launch.py').exists() and len(calls()) == 4


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def test_a_slurm_job_is_shown(monkeypatch, capsys):
    assert train(monkeypatch, '--launcher=slurm', '--pod=nodes=2 time=30 gpus_per_node=8') == 0
    assert re.search('sbatch --nodes=2 --time=30 --gpus-per-node=8', capsys.readouterr().out)


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['--launcher=tpu'], "Did you mean 'tpu_vm'"),
        (['--launcher=tpu_vm'], "name is needed: --pod='name=...'"),
        (['--launcher=tpu_vm', '--pod=nmae=x'], "Did you mean 'name'"),
        (['--launcher=ssh', '--pod=hosts=a', '--dry_run=no'], 'write true or false'),
        (['--launcher=slurm', '--pod=nodes=two time=3'], 'must be a whole number'),
    ],
)
def test_mistakes(argv, words, monkeypatch, capsys):
    assert train(monkeypatch, *argv) == 2
    assert words in capsys.readouterr().err


def test_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(command.UserError, match='gcloud is not there; install https'):
        command.require('gcloud')
