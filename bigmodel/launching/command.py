"""Commands of other programs: shown, or run with what to do where one is missing."""

import dataclasses
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from bigmodel import config as config_lib
from bigmodel.errors import UserError, nearest

ROOT = pathlib.Path(__file__).parents[2]
INSTALL = {
    'gcloud': 'install https://cloud.google.com/sdk/docs/install, then run: gcloud auth login',
    'xpk': 'run: pip install xpk (in an environment of its own), then: gcloud auth login',
    'kubectl': 'run: gcloud components install kubectl gke-gcloud-auth-plugin',
    'ssh': 'install OpenSSH',
    'git': 'install git',
}


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

    def must(self) -> None:
        """Runs it; raises UserError where it fails."""
        code = self.run()
        if code:
            raise UserError(
                f'{self.why}: {self.words[0]} ended with exit code {code}; its message is above '
                f'({INSTALL.get(self.words[0], "run it by hand")})'
            )

    def answer(self) -> str:
        """What it prints; '' where it fails."""
        done = subprocess.run(self.words, check=False, capture_output=True, text=True)
        return '' if done.returncode else done.stdout.strip()


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


def check_committed() -> None:
    """Raises UserError where files of the code differ from their commit, which is what is sent."""
    words = ('git', '-C', str(ROOT), 'status', '--porcelain', '--untracked-files=no')
    if Command('', words).answer():
        raise UserError('the code differs from its commit, which is what is sent; commit it first')


def commit() -> str:
    """The commit of this code."""
    require('git')
    found = Command('', ('git', '-C', str(ROOT), 'rev-parse', 'HEAD')).answer()
    if not found:
        raise UserError(f'{ROOT.name}/ is no git checkout, so there is no state of it to send')
    return found


def archive(of: str, to: str) -> Command:
    """Packs the code of a commit."""
    words = ('git', '-C', str(ROOT), 'archive', '--format=tar.gz', f'--output={to}', of)
    return Command('pack the code of this commit', words)


def unpack(folder: str, requirement: str) -> str:
    """A shell line, for each host: the code into `folder`, the packages into a venv beside it."""
    return (
        f'mkdir -p {folder} && tar xzf bigmodel.tar.gz -C {folder} && cd {folder} && '
        f'python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt {requirement}'
    ).strip()


def start(folder: str, python: str, train: Sequence[str], before: str = '') -> str:
    """A shell line, for each host, that trains; `before` is a line of the user's."""
    line = f'cd {folder} && exec {python} {shlex.join(("launch.py", "train", *train))}'
    return f'{before} && {line}' if before else line
