"""A run's model again: parameters from its checkpoint, without its data or optimizer."""

import pathlib
from typing import Any

from bigmodel.errors import UserError
from bigmodel.training.checkpoints import Checkpoints, find_run


def restored_params(workdir: str, step: int, abstract: Any) -> tuple[Any, int]:
    """The parameters of `step` (0: the newest) of a run, placed as `abstract` says."""
    run, newest = find_run(workdir, '--workdir')
    chosen = step or newest
    if not (run / 'checkpoints' / str(chosen)).is_dir():
        there = sorted(int(p.name) for p in (run / 'checkpoints').iterdir() if p.name.isdigit())
        raise UserError(f'--step={chosen}: there is no such checkpoint in {run}; there: {there}')
    checkpoints = Checkpoints(pathlib.Path(run) / 'checkpoints')
    try:
        return checkpoints.restore_params(chosen, abstract, (('.*', True),)), chosen
    finally:
        checkpoints.close()
