"""Commands of other programs: shown, or run with what to do where one is missing."""

import contextlib
import dataclasses
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError, nearest

INSTALL = {
    'gcloud': 'install https://cloud.google.com/sdk/docs/install, then run: gcloud auth login',
    'xpk': 'run: pip install xpk (in an environment of its own), then: gcloud auth login',
    'kubectl': 'run: gcloud components install kubectl gke-gcloud-auth-plugin',
    'ssh': 'install OpenSSH',
    'git': 'install git',
}
ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # besides Ctrl-C


@dataclasses.dataclass(frozen=True)
class Command:
    """`words` of a program, and `why` it is run."""

    why: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f'# {self.why}\n{shlex.join(self.words)}'

    def run(self) -> int:
        """Runs it, its output being ours; returns the exit code."""
        print(self, flush=True)
        return subprocess.run(self.words, check=False).returncode

    def follow(self, more: Sequence[str]) -> None:
        """Runs it with more words, and no complaint where it fails."""
        subprocess.run((*self.words, *more), check=False, stderr=subprocess.DEVNULL)

    def must(self) -> None:
        """Runs it; raises UserError where it fails."""
        self.check(self.run())

    def check(self, code: int) -> None:
        """Raises UserError where it ended with a code other than 0."""
        if code:
            raise UserError(
                f'{self.why}: {self.words[0]} ended with exit code {code}; its message is above '
                f'({INSTALL.get(self.words[0], "run it by hand")})'
            )

    def answer(self) -> str:
        """What it prints; '' where it fails."""
        done = subprocess.run(self.words, check=False, capture_output=True, text=True)
        return '' if done.returncode else done.stdout.strip()

    def finish(self) -> bool:
        """Runs it to its end, whatever signals come; whether it went well. Where not, what it was
        to remove is still there, and that is said.
        """
        with _deaf():
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(self, flush=True)
            code = subprocess.run(self.words, check=False, start_new_session=True).returncode
            if code:
                with contextlib.suppress(OSError):
                    by_hand = shlex.join(self.words)
                    print(f'NOT done: {self.why}. Run it by hand: {by_hand}', file=sys.stderr)
        return not code


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this context what ends a process is a KeyboardInterrupt, so that it tears down first:
    also a terminal that closes.
    """

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    heard = (s for s in ENDINGS if signal.getsignal(s) != signal.SIG_IGN)  # nohup ignores one
    with _handling(dict.fromkeys(heard, interrupt)):
        yield


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    with _handling(dict.fromkeys((signal.SIGINT, *ENDINGS), signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    old = {s: signal.signal(s, handler) for s, handler in handlers.items()}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def all_must(commands: Sequence[Command]) -> None:
    """Runs them at once; raises UserError where one fails."""
    for command in commands:
        print(command, flush=True)
    running = [subprocess.Popen(c.words, stdin=subprocess.DEVNULL) for c in commands]
    try:
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            process.kill()
    for command, code in zip(commands, codes, strict=True):
        command.check(code)


def require(*programs: str) -> None:
    """Raises UserError where a program is missing."""
    for program in programs:
        if not shutil.which(program):
            raise UserError(f'{program} is not there; {INSTALL[program]}')


def read(text: str, flag: str, defaults: Mapping[str, str | None]) -> dict[str, str]:
    """The values of 'key=value key=value'; None among `defaults` must be given."""
    given = config_lib.pairs(text, flag)
    for key in given:
        if key not in defaults:
            raise UserError(
                f'{flag} has no {key!r}.{nearest(key, defaults)} It has: {", ".join(defaults)}'
            )
    missing = [key for key, value in defaults.items() if value is None and key not in given]
    if missing:
        raise UserError(f"{flag}: {missing[0]} is needed: {flag}='{missing[0]}=...'")
    return {key: value or '' for key, value in defaults.items()} | given


def number(options: Mapping[str, str], key: str, flag: str) -> int:
    """A whole number among `options`."""
    if not options[key].isdecimal():
        raise UserError(f'{flag}: {key}={options[key]} must be a whole number')
    return int(options[key])
