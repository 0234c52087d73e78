"""What becomes of the metrics of a step: read one step late, checked, written and shown."""

import math
import time
from collections.abc import Callable
from typing import Any

from bigmodel import hosts
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics, values
from bigmodel.training.clock import Clock
from bigmodel.training.compilation import compilation
from bigmodel.training.console import Progress, evaluation_line
from bigmodel.training.ledger import Ledger
from bigmodel.training.loss_scale import check_scale
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup
from bigmodel.training.writers import JsonlWriter, TensorBoardWriter


class Log:
    """Reads metrics one step late and hands them to the writers and the screen.

    `label` begins the lines on the screen, where several runs share it.
    """

    def __init__(
        self,
        setup: Setup,
        run: RunDir,
        start: int,
        elapsed: float,
        clock: Clock,
        label: str = '',
    ) -> None:
        self._setup, self._start = setup, start
        self._clock, self._ledger = clock, Ledger(run.times, clock, start)
        self._writers: tuple[JsonlWriter | TensorBoardWriter, ...] = ()
        if hosts.is_first():
            self._writers = (
                JsonlWriter(run.metrics, start),
                TensorBoardWriter(run.tensorboard, start),
            )
        config = setup.config
        self._progress = Progress(
            config.num_steps, start, setup.tokens_per_step, config.log_every, label
        )
        self._pending: tuple[int, Callable[[], Metrics]] | None = None
        self._shown = math.nan  # the newest loss of which something counted
        self._said_nothing = False  # that a batch had nothing to predict
        self._began = time.monotonic() - elapsed
        self._compiled = compilation().seconds
        self._recent = (start, time.monotonic())

    def step(self, step: int, read: Callable[[], Metrics]) -> None:
        """Takes what reads the metrics of `step` and writes those of the step before."""
        self.flush()
        self._pending = (step, read)

    def flush(self) -> None:
        """Writes what is pending; waits for the device."""
        if self._pending is None:
            return
        step, read = self._pending
        self._clock.count('host')
        self._pending, metrics = None, read()
        self._clock.count('compute')
        config = self._setup.config
        if float(metrics['loss'].weight):
            self._shown = self._checked(step, metrics)
        elif not self._said_nothing:
            self._said_nothing = True
            self._progress.note(
                f'step {step}: its batch has nothing to predict, so it changed no parameter and '
                f'its loss is NaN (said once); larger batches make such steps rarer'
            )
        self._progress.update(step, self._shown)
        if step % config.log_every == 0 or step == config.num_steps:
            found = values(metrics)
            before, then = self._recent
            now = time.monotonic()
            rate = (step - before) * self._setup.tokens_per_step / max(now - then, 1e-9)
            self._recent = (step, now)
            self._write({'step': step, 'split': 'train', **found, 'tokens_per_second': rate})
            self._ledger.write(step)

    def _checked(self, step: int, metrics: Metrics) -> float:
        loss = metrics['loss'].value()
        if not self._setup.config.check_finite:
            return loss
        check_scale(step, metrics)
        if not math.isfinite(loss):
            raise UserError(
                f'the loss is {loss} at step {step}; try a lower optimizer.learning_rate or more '
                f'warm-up (check_finite=False goes on regardless)'
            )
        return loss

    def evaluation(self, step: int, name: str, found: dict[str, float], gzip: float) -> None:
        """Writes the result of an evaluation."""
        self._write({'step': step, 'split': name, **found})
        self._progress.note(evaluation_line(step, name, found, gzip))
        self._recent = (step, time.monotonic())

    def saved(self, step: int) -> None:
        """Takes note that the checkpoint of `step` is on its way."""
        self._clock.count('checkpoint')
        self._ledger.write(step)

    @property
    def seconds(self) -> float:
        """Wall time of the run without compilation, of which a run may be spared what another one
        of the same program did; earlier parts included.
        """
        return time.monotonic() - self._began - (compilation().seconds - self._compiled)

    def close(self) -> None:
        """Closes the writers and leaves the bar."""
        self._progress.close()
        self._ledger.close()
        for writer in self._writers:
            writer.close()

    def _write(self, record: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write({**record, 'seconds': round(self.seconds, 3)})
