"""`train --launcher`: what is run elsewhere, with stand-ins for what reaches it (15 s)."""

import json
import os
import pathlib
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Callable

import pytest

from bigmodel.commands import elsewhere
from bigmodel.commands.main import main
from bigmodel.launching import code, command, gke, tpu_vm
from tests.commands.conftest import base

TPU = '--pod=name=n zone=z type=v5litepod-256 version=v2 spot=1'
CARD = '--config=experiments/quickstart.py'
RECORD = (
    '#!{python}\nimport json, os, sys\nopen({log!r}, "a").write(json.dumps(sys.argv) + "\\n")\n'
)


@pytest.fixture
def stand_in(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Puts a program on PATH that records its arguments and goes on with `code`."""
    folder, log = tmp_path / 'bin', str(tmp_path / 'calls')
    folder.mkdir()
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    monkeypatch.setattr(elsewhere, 'check_committed', lambda: None)
    monkeypatch.setattr(tpu_vm, 'POLL', 0.01)
    monkeypatch.setattr(gke, 'POLL', 0.01)

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
    assert f'launch.py train {CARD} --config.num_steps=5' in out and '--launcher' not in out
    assert not (tmp_path / 'calls').exists()


def test_a_slice_is_made_used_and_torn_down(stand_in, monkeypatch):
    """The states that gcloud tells: waiting twice, then there."""
    calls = stand_in('gcloud', STATES.format(states=['WAITING_FOR_RESOURCES', 'ACTIVE'], fail=0))
    assert train(monkeypatch, '--launcher', 'tpu_vm', TPU, '--dry_run=false') == 0
    assert verbs(calls()) == ['create', 'describe', 'describe', 'scp', 'ssh', 'ssh', 'delete']
    folder = code.name(code.commit())
    line = f'cd bigmodel && exec .venv/bin/python {folder}/launch.py train {CARD}'
    assert calls()[-2][-1] == line
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


def test_a_slice_that_nobody_can_see_is_given_up(stand_in, monkeypatch, capsys):
    calls = stand_in('gcloud', "sys.exit('describe' in sys.argv)")
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 2
    assert verbs(calls())[-1] == 'delete'
    assert 'or not be seen' in capsys.readouterr().err


def test_a_slice_that_is_not_removed_is_said(stand_in, monkeypatch, capsys):
    states = STATES.format(states=['ACTIVE'], fail=0)
    stand_in('gcloud', f"{states}\nsys.exit('delete' in sys.argv)")
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 1
    assert 'NOT done: tear down. Run it by hand: gcloud' in capsys.readouterr().err


def test_a_slice_that_is_kept_is_found_again(stand_in, monkeypatch, capsys):
    calls = stand_in('gcloud', STATES.format(states=['ACTIVE'], fail=0))
    assert train(monkeypatch, '--launcher=tpu_vm', f'{TPU} keep=1', '--dry_run=false') == 0
    assert verbs(calls()) == ['describe', 'describe', 'scp', 'ssh', 'ssh']


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGHUP])
def test_a_signal_tears_down_first(signum, stand_in, monkeypatch, capsys):
    """Of the launcher, while the run goes on."""
    states = STATES.format(states=['ACTIVE'], fail=0)
    hang = f"import time\nif 'launch.py' in sys.argv[-1]: os.kill({os.getpid()}, {int(signum)})"
    calls = stand_in('gcloud', f'{hang}; time.sleep(60)\n{states}')
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may ignore it
    try:
        assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 130
    finally:
        signal.signal(signal.SIGINT, old)
    assert verbs(calls())[-1] == 'delete'
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_without_credentials_the_fix_is_said(stand_in, monkeypatch, capsys):
    stand_in('gcloud', 'sys.exit(1)')
    assert train(monkeypatch, '--launcher=tpu_vm', TPU, '--dry_run=false') == 2
    assert 'gcloud auth login' in capsys.readouterr().err


# Answers for the state of a workload: these, one a call.
CONDITIONS = """
if 'jobset' in sys.argv:
    said = __file__ + '.said'
    there = len(open(said).read()) if os.path.exists(said) else 0
    open(said, 'a').write('.')
    print('n', {states}[there])
"""
GKE = '--pod=name=n cluster=c zone=z type=v5litepod-256 slices=2 retries=3'


def test_a_workload_is_queued_followed_also_after_a_restart_and_removed(stand_in, monkeypatch):
    unpacked = """
folder = next((a.partition('=')[2] for a in sys.argv if a.startswith('--script-dir=')), '')
assert not folder or os.path.exists(folder + '/launch.py')
"""
    stand_in('kubectl', CONDITIONS.format(states=['', 'StartupPolicyCompleted', 'Completed']))
    calls = stand_in('xpk', unpacked)
    assert train(monkeypatch, '--launcher=gke', GKE, '--dry_run=false', '--config.seed=4') == 0
    create, *asked, delete = calls()
    assert create[1:3] == ['workload', 'create'] and '--num-slices=2' in create
    assert '--max-restarts=3' in create and '--restart-on-exit-codes=75' in create
    assert f'exec python launch.py train {CARD} --config.seed=4' in create[-1]
    assert [call[2] for call in asked] == ['logs', 'get'] * 3
    assert 'job-index=0' in asked[0][-1] and asked[2][-1].startswith('--since-time=')
    assert delete[1:3] == ['workload', 'delete']


def test_a_workload_that_fails_is_removed_and_said(stand_in, monkeypatch):
    stand_in('kubectl', CONDITIONS.format(states=['Failed']))
    calls = stand_in('xpk')
    assert train(monkeypatch, '--launcher=gke', GKE, '--dry_run=false') == 1
    assert calls()[-1][1:3] == ['workload', 'delete']


def test_hosts_by_ssh_train_one_run(stand_in, monkeypatch, tmp_path):
    """A stand-in that runs what ssh would send: two processes, really trained."""
    remote = 'words = [w for w in sys.argv[1:] if w != "-tt"][1:]\n'
    remote += 'os.execvp("bash", ["bash", "-c", *words])\n'
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    calls = stand_in('ssh', remote)
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
    folder = code.name(code.commit())
    assert (tmp_path / 'bigmodel' / folder / 'launch.py').exists() and len(calls()) == 3
    git = json.loads((run / 'run.json').read_text())['git']
    assert git == {'commit': code.commit(), 'dirty': False}


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def test_a_slurm_job_is_shown_and_runs_the_code_of_the_commit(monkeypatch, capsys):
    pod = '--pod=nodes=2 time=30 gpus_per_node=8 signal_delay_s=60'
    assert train(monkeypatch, '--launcher=slurm', pod, '--config.name=a b') == 0
    line = capsys.readouterr().out.splitlines()[-2]
    *flags, wrap = shlex.split(line)
    assert flags == ['sbatch', '--nodes=2', '--time=30', '--gpus-per-node=8']
    words = shlex.split(wrap.removeprefix('--wrap='))
    folder = pathlib.Path('runs/slurm').resolve() / code.name(code.commit())
    assert words[:4] == ['srun', 'python', f'{folder}/launch.py', 'train']
    assert words[4:] == [f'--config={folder}/experiments/quickstart.py', '--config.name=a b']


def test_what_a_shell_would_read_arrives_as_it_was_given(stand_in, monkeypatch, tmp_path):
    """Through ssh, whose words another shell reads."""
    stand_in('ssh', 'os.execvp("bash", ["bash", "-c", sys.argv[-1]])')
    told = tmp_path / 'told'
    (tmp_path / 'python').write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n')
    (tmp_path / 'python').chmod(0o755)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    hard = ['--config.name=it\'s "a" $HOME; `ls` *', '--config.evals.validation.data=a\\ b']
    pod = f'--pod=hosts=one python={tmp_path}/python'
    assert train(monkeypatch, '--launcher=ssh', pod, '--dry_run=false', *hard) == 0
    assert told.read_text().splitlines()[3:5] == hard


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['--launcher=tpu'], "Did you mean 'tpu_vm'"),
        (['--launcher=tpu_vm'], "name is needed: --pod='name=...'"),
        (['--launcher=tpu_vm', '--pod=nmae=x'], "Did you mean 'name'"),
        (['--launcher=ssh', '--pod=hosts=a', '--dry_run=no'], 'write true or false'),
        (['--launcher=slurm', '--pod=nodes=two time=3'], 'must be a whole number'),
        (['--launcher=tpu_vm', f'{TPU} retries=often'], 'retries=often must be a whole number'),
    ],
)
def test_mistakes(argv, words, monkeypatch, capsys):
    assert train(monkeypatch, *argv) == 2
    assert words in capsys.readouterr().err


def test_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(command.UserError, match='gcloud is not there; install https'):
        command.require('gcloud')


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    root = tmp_path / 'a checkout'
    (root / 'experiments').mkdir(parents=True)
    (root / 'experiments' / 'mine.py').touch()
    who = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    for words in (('init', '-q'), ('add', '.'), (*who, 'commit', '-qm', 'one')):
        subprocess.run(('git', '-C', str(root), *words), check=True)
    monkeypatch.setattr(code, 'ROOT', root)
    return root


def test_what_is_not_committed_is_named(checkout):
    code.check_committed()
    (checkout / 'notes.txt').touch()  # is not of the code
    code.check_committed()
    (checkout / 'experiments' / 'new.py').touch()
    (checkout / 'experiments' / 'mine.py').write_text('changed')
    with pytest.raises(command.UserError, match=r'differ.*: experiments/mine.py, experiments/new'):
        code.check_committed()


def test_a_config_is_sent_with_the_code_or_refused(checkout, monkeypatch):
    monkeypatch.chdir(checkout / 'experiments')
    assert code.sent_config('mine.py:7') == 'experiments/mine.py:7'
    (checkout / 'experiments' / 'new.py').touch()
    for path in ('new.py', '/etc/passwd'):
        with pytest.raises(command.UserError, match='is not part of the commit'):
            code.sent_config(path)


def test_the_code_of_a_commit_lies_where_it_is_wanted(checkout, tmp_path):
    code.extract(code.commit(), str(tmp_path / "it's here")).must()
    assert (tmp_path / "it's here" / 'experiments' / 'mine.py').exists()
