"""The launcher `slurm`: one job of several tasks, by submitit, which queues it again when its time
is over or another job displaces it.
"""

import pathlib
from collections.abc import Sequence

from bigmodel.launching.code import commit, extract, name
from bigmodel.launching.command import Command
from bigmodel.sweeps import slurm


class Slurm:
    """Each task is a host of the run; `ntasks_per_node` of them share a machine and its GPUs."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._options = slurm.options(text, '--pod', ('nodes', 'ntasks_per_node'))
        self._logs, of = pathlib.Path('runs/slurm').resolve(), commit()
        # A job that waits, or is queued again, finds the code that it was given.
        self._code = self._logs / name(of)
        self._extract = extract(of, str(self._code))
        self._train = [_of_code(word, self._code) for word in train]

    def commands(self) -> list[Command]:
        """What is run; submitit writes a script of its own, which says the same."""
        ours = ('array_parallelism', 'signal_delay_s')  # words of submitit
        flags = [
            f'--{k.replace("_", "-")}' + ('' if v is True else f'={v}')
            for k, v in self._options.items()
            if k not in ours
        ]
        line = Command('', ('srun', 'python', f'{self._code}/launch.py', 'train', *self._train))
        wrap = str(line).splitlines()[1]
        about = 'one job, by submitit, which queues it again when its time ends'
        return [self._extract, Command(about, ('sbatch', *flags, f'--wrap={wrap}'))]

    def run(self) -> int:
        """Queues the job and says which it is."""
        executor = slurm.executor(self._logs, self._options, self._code)
        self._extract.must()
        (job,) = slurm.submit_all(executor, [slurm.Worker(['train', *self._train])])
        print(f'queued as {job}, logs in {self._logs}', flush=True)
        return 0


def _of_code(word: str, code: pathlib.Path) -> str:
    """`--config` in that code: where the job starts, an edited one may lie."""
    flag, _, path = word.partition('=')
    return f'{flag}={code / path}' if flag == '--config' else word
