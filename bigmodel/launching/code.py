"""The code of a commit, on its way to other machines."""

import pathlib
import shlex
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.command import Command, require

ROOT = pathlib.Path(__file__).parents[2]
# What a run reads of a checkout.
PARTS = ('bigmodel', 'experiments', 'launch.py', 'requirements.txt')
# jax needs this much; images of TPU VMs have Python 3.10, for which uv fetches another.
_VENV = (
    "{ python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && python3 -m venv .venv; } "
    '|| { rm -rf .venv && python3 -m pip install -q --user uv '
    '&& python3 -m uv venv -q --seed --python 3.12 .venv; }'
)


def commit() -> str:
    """The commit of this code."""
    require('git')
    found = _git('rev-parse', 'HEAD')
    if not found:
        raise UserError(
            f'{ROOT} is no git checkout that git reads, so there is no state of it to send; see '
            f'what says: git -C {ROOT} status'
        )
    return found


def check_committed() -> None:
    """Raises UserError where files of the code differ from their commit, which is what is sent."""
    commit()
    changed = _git('status', '--porcelain', '--', *PARTS).splitlines()
    if changed:
        names = ', '.join(line[2:].strip() for line in changed[:5])
        more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
        raise UserError(f'the commit is what is sent, and these differ from it: {names}{more}')


def sent_config(path_and_arg: str) -> str:
    """`--config` as a path within the code; raises UserError where it is none of the commit."""
    path, colon, arg = path_and_arg.partition(':')
    file = pathlib.Path(path).resolve()
    inside = file.relative_to(ROOT) if file.is_relative_to(ROOT) else None
    if inside is None or not _git('ls-files', '--', str(inside)):
        raise UserError(
            f'--config={path} is not part of the commit, which is what is sent; put it into '
            f'experiments/ and commit it'
        )
    return f'{inside}{colon}{arg}'


def archive(of: str, to: str) -> Command:
    """Packs the code of a commit."""
    words = ('git', '-C', str(ROOT), 'archive', '--format=tar.gz', f'--output={to}', of)
    return Command('pack the code of this commit', words)


def extract(of: str, folder: str) -> Command:
    """Puts the code of a commit into a folder of this machine."""
    pack = shlex.join(('git', '-C', str(ROOT), 'archive', of))
    to = shlex.quote(folder)
    line = f'mkdir -p {to} && {pack} | tar x -C {to}'
    return Command('the code of this commit', ('sh', '-c', line))


def unpack(bundle: str, folder: str, of: str) -> str:
    """A shell line, for each host: the code of commit `of` into a folder of its own in `folder`.

    No file of another commit is in the way, and runs of several can go on.
    """
    return f'mkdir -p {folder}/{name(of)} && tar xzf {bundle} -C {folder}/{name(of)}'


def install(folder: str, of: str, requirement: str) -> str:
    """A shell line, for each host: the packages into a venv beside the code."""
    packages = f'-r {name(of)}/requirements.txt {shlex.quote(requirement) if requirement else ""}'
    return (
        f'cd {folder} && {{ test -x .venv/bin/pip || {_VENV}; }} && '
        f'.venv/bin/pip install -q {packages}'
    ).strip()


def start(folder: str, of: str, python: str, train: Sequence[str], before: str = '') -> str:
    """A shell line, for each host, that trains; `before` is a line of the user's."""
    words = shlex.join((f'{name(of)}/launch.py' if of else 'launch.py', 'train', *train))
    line = f'cd {folder} && exec {python} {words}'
    return f'{before} && {line}' if before else line


def name(of: str) -> str:
    """Of the folder of a commit's code."""
    return f'code-{of[:12]}'


def _git(*words: str) -> str:
    return Command('', ('git', '-C', str(ROOT), *words)).answer()
