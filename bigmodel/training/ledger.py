"""What a run writes of its time while it goes on: `times.jsonl`, which goodput.py reads."""

import json
import pathlib
from typing import Any, BinaryIO

from bigmodel import hosts
from bigmodel.training.clock import Clock
from bigmodel.training.goodput import KINDS


class Ledger:
    """Writes where the time of a run goes, on the first host; `start` is the step it starts after.

    Runs that are trained together share the clock.
    """

    def __init__(self, path: pathlib.Path, clock: Clock, start: int) -> None:
        self._clock, self._written, self._step = clock, dict.fromkeys(KINDS, 0.0), start
        self._file = _opened(path) if hosts.is_first() else None
        self._append({'step': start, 'began': round(clock.began, 6)})
        clock.count('start')
        self.write(start)

    def write(self, step: int) -> None:
        """Writes what the time went to since the last line, and that `step` steps are made."""
        self._clock.count('host')
        now, self._step = dict(self._clock.totals), step
        spent = {kind: round(now[kind] - self._written[kind], 6) for kind in KINDS}
        # What is rounded off stays for the next line.
        self._written = {kind: self._written[kind] + spent[kind] for kind in KINDS}
        self._append({'step': step} | {k: s for k, s in spent.items() if s})

    def close(self) -> None:
        """Writes what is left; to be called when the last checkpoint is there."""
        self._clock.count('checkpoint')
        self.write(self._step)
        if self._file:
            self._file.close()

    def _append(self, record: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(record).encode() + b'\n')
            self._file.flush()


def _opened(path: pathlib.Path) -> BinaryIO:
    """To append to; what a kill cut off is left as a line that nothing reads."""
    file = path.open('ab+')
    if file.tell():
        file.seek(-1, 2)
        if file.read(1) != b'\n':
            file.write(b'\n')
    return file
