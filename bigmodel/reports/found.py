"""The runs below a directory, whether a sweep made them or not, each with its config."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from bigmodel import config as config_lib
from bigmodel.errors import UserError
from bigmodel.models import presets
from bigmodel.reports.again import job_again, run_again
from bigmodel.sweeps.folder import RunState, SweepDir, end_of
from bigmodel.sweeps.plan import Job, Plan


@dataclasses.dataclass(frozen=True)
class Found:
    """A run, its config with dotted keys (that of its plan where it never began), and the command
    that makes it again.
    """

    state: RunState
    config: Mapping[str, Any]
    again: str


def runs_in(folder: pathlib.Path) -> list[Found]:
    """The run of a directory itself, or all runs in a sweep, or in a folder of either.

    Raises UserError where there is neither.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is no directory')
    if (folder / 'config.json').exists():
        return [_alone(folder)]
    sweeps = [SweepDir(path.parent) for path in sorted(folder.glob('**/sweep.json'))]
    planned = [found for sweep in sweeps for found in _of_sweep(sweep)]
    others = {path.parent for path in folder.glob('**/config.json')}
    others -= {found.state.path for found in planned}
    runs = planned + [_alone(path) for path in sorted(others)]
    if not runs:
        raise UserError(f'{folder} holds neither a sweep nor runs: there is no config.json in it')
    return runs


def _of_sweep(sweep: SweepDir) -> list[Found]:
    plan = sweep.read_plan()
    return [
        Found(
            state,
            _begun(state.path) if state.config else _planned(plan, state.job),
            job_again(plan, sweep.path, state.job),
        )
        for state in sweep.states(plan)
    ]


def _alone(path: pathlib.Path) -> Found:
    """A run that no sweep made; its arm is named later."""
    ended = (path / 'result.json').exists()
    state = RunState(Job('', 0), path, end_of(path) if ended else 'stopped')
    return Found(state, _begun(path), run_again(state))


def _begun(run: pathlib.Path) -> dict[str, Any]:
    file = run / 'config.json'
    flat = dict(config_lib.flatten(config_lib.read_json(file)))
    if not {'seed', 'name', 'num_steps'} <= set(flat):
        raise UserError(f'{file} is no config of a run: it lacks seed, name or num_steps')
    return flat


def _planned(plan: Plan, job: Job) -> dict[str, Any]:
    """As the run would have written it."""
    config = plan.config(plan.arm(job.arm), job.seed)
    with contextlib.suppress(UserError):  # perhaps that is why it never began
        presets.resolve(config.model, config.data.seq_len)
    return dict(config_lib.flatten(config))
