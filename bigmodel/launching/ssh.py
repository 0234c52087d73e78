"""The launcher `ssh`: machines that this one reaches, one process each."""

import os
import subprocess
import tempfile
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.command import (
    Command,
    archive,
    check_committed,
    commit,
    read,
    require,
    start,
    unpack,
)

SSH = {
    'hosts': None,  # a,b,c: the first one is that of the coordinator
    'port': '8476',
    'folder': 'bigmodel',  # of the code, on each host
    'python': '',  # one with the packages; '': a venv is made
    'before': '',
    'requirement': '',  # jax[cuda13]
}


class Ssh:
    """The same command on every host, with the number of each."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train = read(text, '--pod', SSH), train
        self._hosts = [host for host in self._o['hosts'].split(',') if host]
        self._bundle = os.path.join(tempfile.gettempdir(), 'bigmodel.tar.gz')

    def commands(self) -> list[Command]:
        """What is run: the first to send and install, the last ones, of each host, at once."""
        o = self._o
        sent = [archive(commit(), self._bundle)]
        line = unpack(o['folder'], o['requirement'])
        if o['python']:
            line = f'mkdir -p {o["folder"]} && tar xzf bigmodel.tar.gz -C {o["folder"]}'
        for host in dict.fromkeys(self._hosts):
            copy = f'ssh {host} "cat > bigmodel.tar.gz" < {self._bundle}'
            sent.append(Command(f'send the code to {host}', ('sh', '-c', copy)))
            sent.append(Command(f'install on {host}', ('ssh', host, line)))
        return sent + self._starts()

    def _starts(self) -> list[Command]:
        address = self._hosts[0].rpartition('@')[2]
        flags = [f'--coordinator={address}:{self._o["port"]}', f'--num_hosts={len(self._hosts)}']
        python = self._o['python'] or '.venv/bin/python'
        found = []
        for i, host in enumerate(self._hosts):
            train = [*self._train, *flags, f'--host={i}']
            line = start(self._o['folder'], python, train, self._o['before'])
            # With a terminal the process on the host ends when this one does.
            found.append(Command(f'start host {i}', ('ssh', '-tt', host, line)))
        return found

    def run(self) -> int:
        """Sends, installs, starts all hosts and shows what the first says; returns an exit code."""
        require('ssh', 'git')
        check_committed()
        commands = self.commands()
        starts = commands[-len(self._hosts) :]
        for command in commands[: -len(self._hosts)]:
            command.must()
        print(*starts, sep='\n', flush=True)
        running = [subprocess.Popen(c.words, stdin=subprocess.DEVNULL) for c in starts]
        codes = [process.wait() for process in running]
        if any(codes):
            bad = ', '.join(f'{h}: {c}' for h, c in zip(self._hosts, codes, strict=True) if c)
            raise UserError(f'hosts ended with exit codes {bad}; the same command resumes')
        return 0
