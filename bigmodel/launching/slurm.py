"""The launcher `slurm`: one job of several tasks, by submitit, which queues it again when its time
is over or another job displaces it.
"""

import pathlib
from collections.abc import Sequence

from bigmodel.launching.command import ROOT, Command
from bigmodel.sweeps import slurm


class Slurm:
    """Each task is a host of the run; `ntasks_per_node` of them share a machine and its GPUs."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._options = slurm.options(text, '--pod', ('nodes', 'ntasks_per_node'))
        self._train = train

    def commands(self) -> list[Command]:
        """What submitit queues, in words of sbatch."""
        flags = [f'--{k.replace("_", "-")}={v}' for k, v in self._options.items()]
        line = ('srun', 'python', f'{ROOT}/launch.py', 'train', *self._train)
        return [Command('one job; submitit writes its script', ('sbatch', *flags, *line))]

    def run(self) -> int:
        """Queues the job and says which it is."""
        logs = pathlib.Path('runs/slurm').resolve()
        executor = slurm.executor(logs, self._options)
        (job,) = slurm.submit_all(executor, [slurm.Worker(['train', *self._train])])
        print(f'queued as {job}, logs in {logs}', flush=True)
        return 0
