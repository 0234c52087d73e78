"""The commands that make runs again, in directories beside those that are there."""

import pathlib
import shlex

from bigmodel.sweeps.folder import RunState
from bigmodel.sweeps.plan import Job, Plan


def sweep_again(plan: Plan, where: pathlib.Path) -> str:
    """All of a sweep."""
    words = ['python', 'launch.py', 'sweep', f'--config={plan.source}', _workdir(where, 'redo')]
    return shlex.join([*words, *(f'--config.{key}={text}' for key, text in plan.overrides)])


def job_again(plan: Plan, where: pathlib.Path, job: Job) -> str:
    """One run of a sweep, by itself."""
    return shlex.join([*plan.command(job), f'{_workdir(where, "redo-alone")}/{job}'])


def run_again(state: RunState) -> str:
    """A run that no sweep made, by the command that did; '' where that is not known."""
    made = str(state.run.get('command', ''))
    try:
        words = shlex.split(made)
    except ValueError:  # of an older version, which wrote it without quotes
        words = made.split()
    if '--workdir' in words:
        at = words.index('--workdir')
        words = [*words[:at], *words[at + 2 :]]
    kept = [word for word in words if not word.startswith('--workdir=')]
    return shlex.join(['python', *kept, _workdir(state.path, 'redo')]) if kept else ''


def _workdir(path: pathlib.Path, ending: str) -> str:
    path = path.resolve() if path.name in ('', '..') else path
    return f'--workdir={path}-{ending}'
