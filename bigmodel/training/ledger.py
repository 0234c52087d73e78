"""What a run writes of its time while it goes on: `times.jsonl`, which goodput.py reads."""

import pathlib
import sys

from bigmodel import hosts
from bigmodel.training.clock import Clock
from bigmodel.training.goodput import KINDS
from bigmodel.training.writers import JsonlWriter


class Ledger:
    """Writes where the time of a run goes, on the first host; `start` is the step it starts after.

    Runs that are trained together share the clock.
    """

    def __init__(self, path: pathlib.Path, clock: Clock, start: int) -> None:
        self._clock, self._written, self._step = clock, dict.fromkeys(KINDS, 0.0), start
        self._writer = JsonlWriter(path, sys.maxsize) if hosts.is_first() else None
        if self._writer:
            self._writer.write({'step': start, 'began': round(clock.began, 6)})
        clock.count('start')
        self.write(start)

    def write(self, step: int) -> None:
        """Writes what the time went to since the last line, and that `step` steps are made."""
        self._clock.count('host')
        now, self._step = dict(self._clock.totals), step
        spent = {kind: round(now[kind] - self._written[kind], 6) for kind in KINDS}
        # What is rounded off stays for the next line.
        self._written = {kind: self._written[kind] + spent[kind] for kind in KINDS}
        if self._writer:
            self._writer.write({'step': step} | {k: s for k, s in spent.items() if s})

    def close(self) -> None:
        """Writes what is left; to be called when the last checkpoint is there."""
        self._clock.count('checkpoint')
        self.write(self._step)
        if self._writer:
            self._writer.close()
