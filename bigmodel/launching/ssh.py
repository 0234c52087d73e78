"""The launcher `ssh`: machines that this one reaches, one process each."""

import contextlib
import shlex
import subprocess
import time
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.code import ROOT, commit, install, name, start
from bigmodel.launching.command import Command, all_must, interruptible, number, read, require

SSH = {
    'hosts': None,  # a,b,c: the first one is that of the coordinator
    'address': '',  # by which the others reach the first; '': as in `hosts`
    'port': '8476',
    'folder': 'bigmodel',  # of the code, on each host
    'python': '',  # one with the packages; '': a venv is made
    'before': '',
    'requirement': '',  # jax[cuda13]
}
GRACE = 60.0  # seconds that hosts have to save and stop
PATIENCE = 100.0  # seconds in which hosts see by themselves that another has ended


class Ssh:
    """The same command on every host, with the number of each."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train, self._code = read(text, '--pod', SSH), train, commit()
        self._hosts = [host for host in self._o['hosts'].split(',') if host]
        number(self._o, 'port', '--pod')

    def commands(self) -> list[Command]:
        """What is run: each group at once on all hosts."""
        return [*self._sends(), *self._installs(), *self._starts()]

    def _sends(self) -> list[Command]:
        folder = f'{self._o["folder"]}/{name(self._code)}'
        pack = shlex.join(('git', '-C', str(ROOT), 'archive', '--format=tar.gz', self._code))
        take = f'mkdir -p {folder} && tar xzf - -C {folder}'
        return [
            Command(f'send the code to {host}', ('sh', '-c', f'{pack} | {_ssh(host, take)}'))
            for host in dict.fromkeys(self._hosts)
        ]

    def _installs(self) -> list[Command]:
        if self._o['python']:
            return []
        line = install(self._o['folder'], self._code, self._o['requirement'])
        hosts = dict.fromkeys(self._hosts)
        return [Command(f'install on {host}', ('ssh', host, line)) for host in hosts]

    def _starts(self) -> list[Command]:
        address = self._o['address'] or self._hosts[0].rpartition('@')[2]
        flags = [f'--coordinator={address}:{self._o["port"]}', f'--num_hosts={len(self._hosts)}']
        python = self._o['python'] or '.venv/bin/python'
        found = []
        for i, host in enumerate(self._hosts):
            train = [*self._train, *flags, f'--host={i}']
            line = start(self._o['folder'], self._code, python, train, self._o['before'])
            # With a terminal the process on the host has our Ctrl-C, and ends when we are gone.
            found.append(Command(f'start host {i}', ('ssh', '-tt', host, line)))
        return found

    def run(self) -> int:
        """Sends, installs, starts all hosts and shows what the first says; returns an exit code."""
        require('ssh', 'git')
        with interruptible():
            all_must(self._sends())
            all_must(self._installs())
            starts = self._starts()
            print(*starts, sep='\n', flush=True)
            # A session of their own: a Ctrl-C goes through us.
            running = [
                subprocess.Popen(c.words, stdin=subprocess.PIPE, start_new_session=True)
                for c in starts
            ]
            try:
                _wait(running)
            except KeyboardInterrupt:
                _stop(running)
                raise
            finally:
                for process in running:
                    process.kill()
        codes = [process.wait() for process in running]
        if any(codes):
            bad = ', '.join(f'{h}: {c}' for h, c in zip(self._hosts, codes, strict=True) if c)
            raise UserError(f'hosts ended with exit codes {bad}; the same command resumes')
        return 0


def _ssh(host: str, line: str) -> str:
    return shlex.join(('ssh', host, line))


def _wait(running: Sequence[subprocess.Popen]) -> None:
    """Until all have ended, or one has ended badly and the others not by themselves after it."""
    until = float('inf')
    while any(p.poll() is None for p in running) and time.monotonic() < until:
        if any(p.returncode for p in running):
            until = min(until, time.monotonic() + PATIENCE)
        time.sleep(0.2)
    if any(p.poll() is None for p in running):
        print('a host has ended badly; the others are stopped', flush=True)
        _stop(running)


def _stop(running: Sequence[subprocess.Popen]) -> None:
    """Ctrl-C for the processes on the hosts, which save what they do."""
    for process in running:
        with contextlib.suppress(OSError):  # it has ended
            process.stdin.write(b'\x03')
            process.stdin.flush()
    until = time.monotonic() + GRACE
    while any(p.poll() is None for p in running) and time.monotonic() < until:
        time.sleep(0.2)
