"""A run between its steps: what is logged, evaluated and saved, and when it ends."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bigmodel import hosts
from bigmodel.metrics import Metrics
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.clock import Clock
from bigmodel.training.compilation import compilation
from bigmodel.training.evaluate import open_evaluations
from bigmodel.training.log import Log
from bigmodel.training.progress import Best, agreed, watched
from bigmodel.training.result import result_of
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup
from bigmodel.training.state import State
from bigmodel.training.writers import draw_loss, read_jsonl

Reason = Callable[[RunDir], str]


def never(run: RunDir) -> str:
    """No reason to end a run before `num_steps`."""
    return ''


class Running:
    """One run in its directory, from what is there to its result; somebody else makes the steps.

    After evaluations `reason_to_stop` is asked whether the run should end; '' means to go on.
    `clock` counts where its time goes; `label` begins the lines that it prints, where several runs
    print beside each other.
    """

    def __init__(
        self,
        setup: Setup,
        run: RunDir,
        clock: Clock,
        reason_to_stop: Reason = never,
        label: str = '',
    ) -> None:
        config = setup.config
        self._setup, self._run, self._label = setup, run, label
        self._clock = clock
        self._reason_to_stop, self._compiled = reason_to_stop, compilation().seconds

        # Splits that evaluations read, so that a mistake shows before anything is written.
        self._best = watched(config.checkpoint.best, config.evals, 'checkpoint.best', False)
        self._patient = watched(config.stop_early, config.evals, 'stop_early', patience=True)
        self._evaluations = open_evaluations(setup)
        self._best.check(lambda name: self._evaluations[name].names(), 'checkpoint.best')
        self._patient.check(lambda name: self._evaluations[name].names(), 'stop_early')

        run.create(setup)
        self._checkpoints = Checkpoints(
            run.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every
        )
        self.start: int = hosts.from_first(self._checkpoints.latest) or 0

    def state_maker(self) -> Callable[[], State]:
        """What makes the state to start from; a checkpoint is read here, as it may be damaged."""
        if not self.start:
            return self._setup.initial_state
        saved = self._checkpoints.restore(self.start, self._setup.abstract.saved)
        return partial(self._setup.resumed, saved)

    def begin(self) -> int:
        """Opens the writers, which continue where the checkpoint is; returns the last step to make.

        That is `start` when there is a reason to end already.
        """
        run, start = self._run, self.start
        before = (r['seconds'] for r in read_jsonl(run.metrics) if r['step'] <= start)
        self._log = Log(self._setup, run, start, max(before, default=0.0), self._clock, self._label)
        self._decide()
        return start if self._ended else self._setup.config.num_steps

    def after(
        self,
        step: int,
        read: Callable[[], Metrics],
        state: Callable[[], State],
        stop: Callable[[int], bool],
    ) -> bool:
        """Logs the metrics that `read` gives of `step`, evaluates and saves `state()` when that is
        due, and says whether the run ends here, as it does when `stop(step)` says so.

        The metrics are read one step late, while the device makes the next.
        """
        config = self._setup.config
        self._log.step(step, read)
        last = step == config.num_steps
        due = [n for n, e in config.evals.items() if step % e.every == 0 or last]
        if due:
            self._evaluate(step, due, state())
            self._decide()
        ends = any((stop(step), last, self._ended))
        if step % config.checkpoint.every == 0 or ends or self._found.step == step:
            self._log.flush()
            self._clock.count('host')
            self._checkpoints.save(step, self._setup.saved(state()), self._found.step)
            self._log.saved(step)
        return ends

    def close(self) -> None:
        """Waits for the last checkpoint and closes the writers."""
        self._checkpoints.close()
        self._log.close()

    def result(self, step: int) -> dict[str, Any]:
        """What came out of a run that ended after `step`; draws its curve."""
        run, setup = self._run, self._setup
        if hosts.is_first():
            draw_loss(run.metrics, run.loss, setup.config.name)
        return hosts.from_first(lambda: result_of(setup, run, self._log, step)) | {
            'compile_seconds': round(compilation().seconds - self._compiled, 3),
            'best': self._best.told(self._found),
            'stopped_early': self._ended,
        }

    def _evaluate(self, step: int, names: list[str], state: State) -> None:
        self._log.flush()
        self._clock.count('host')
        for name in names:
            evaluation = self._evaluations[name]
            # The step reuses the companions' memory too: they are those of the newest state.
            params = self._setup.optimizer.averaged(state.params, state.opt_state)
            values = evaluation(params, state.companions)
            self._log.evaluation(step, name, values, evaluation.data.store.gzip_bits_per_byte)
        self._clock.count('evaluation')

    def _decide(self) -> None:
        self._found, self._ended = agreed(self._read)

    def _read(self) -> tuple[Best, str]:
        """Reads back, so that a run that was killed decides as one that was not."""
        metrics = self._run.metrics
        ended = self._patient.reason_to_stop(metrics) or self._reason_to_stop(self._run)
        return self._best.best(metrics), ended
