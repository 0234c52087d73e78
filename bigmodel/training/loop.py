"""The loop: a list of stages in a fixed order."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from bigmodel import devices
from bigmodel.data.pipeline import prefetch
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.console import Progress, evaluation_line, print_plan
from bigmodel.training.evaluate import evaluate, put_batch
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup
from bigmodel.training.state import State
from bigmodel.training.step import make_eval_step, make_train_step
from bigmodel.training.writers import JsonlWriter, TensorBoardWriter, draw_loss, read_jsonl


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name} after step {step}')
        self.signum = signum


def train(setup: Setup, run: RunDir) -> tuple[State, dict[str, Any]]:
    """Trains to `num_steps` (resuming what is there); returns the state and what came out.

    Raises Interrupted when SIGINT or SIGTERM asked to stop, after saving.
    """
    config = setup.config
    with setup.sharding.active(), catch_signals() as stop:
        # 1. Splits that evaluations read, so that a mistake shows before anything is written.
        splits = {name: setup.open_split(e.split) for name, e in config.evals.items()}

        # 2. The run directory and the state: the newest checkpoint, or the initial one.
        run.create(setup)
        checkpoints = Checkpoints(
            run.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every
        )
        start = checkpoints.latest() or 0
        state = checkpoints.restore(start, setup.abstract) if start else setup.initial_state()
        print_plan(setup, str(run.path), start)

        # 3. Compiled programs.
        train_step, eval_step = compile_steps(setup)

        # 4. Writers, which continue where the checkpoint is.
        elapsed = _seconds_before(run, start)
        log = Log(setup, run, start, elapsed)

        def evaluate_due(step: int, names: list[str]) -> None:
            log.flush()
            for name in names:
                count = config.evals[name].batches
                values = evaluate(eval_step, state.params, splits[name], setup.sharding, count)
                log.evaluation(step, name, values, splits[name].store.gzip_bits_per_byte)

        # 5. Steps. The host reads the metrics of a step while the device runs the next.
        batches = prefetch(setup.data.batches, start, config.num_steps)
        for step, batch in enumerate(batches, start + 1):
            state, metrics = train_step(state, put_batch(batch, setup.sharding), setup.hparams)
            log.step(step, metrics)
            last = step == config.num_steps
            evaluate_due(step, [n for n, e in config.evals.items() if step % e.every == 0 or last])
            if step % config.checkpoint.every == 0 or last or stop:
                log.flush()
                checkpoints.save(step, state)
            if stop and not last:
                batches.close()
                checkpoints.close()
                log.close()
                raise Interrupted(stop[0], step)

        # 6. The end: wait for the last checkpoint, then say what came out.
        checkpoints.close()
        log.close()
        draw_loss(run.metrics, run.loss, config.name)
        return state, _result(setup, run, log)


def compile_steps(setup: Setup) -> tuple[Any, Any]:
    """The training step (which reuses the memory of the old state) and the evaluation step."""
    config = setup.config
    # A mixer with arguments may have a dropout of its own; a key that nobody uses costs nothing.
    dropout = config.model.dropout > 0 or '(' in config.model.mixer
    step = make_train_step(setup.model, setup.task, setup.optimizer, config.accumulate, dropout)
    places = jax.tree.map(lambda a: a.sharding, setup.abstract)
    train_step = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    return train_step, jax.jit(make_eval_step(setup.model, setup.task))


class Log:
    """Reads metrics one step late and hands them to the writers and the screen."""

    def __init__(self, setup: Setup, run: RunDir, start: int, elapsed: float) -> None:
        self._setup, self._start = setup, start
        self._writers = (
            JsonlWriter(run.metrics, start),
            TensorBoardWriter(run.tensorboard, start),
        )
        config = setup.config
        self._progress = Progress(config.num_steps, start, setup.tokens_per_step, config.log_every)
        self._pending: tuple[int, Metrics] | None = None
        self._began = time.monotonic() - elapsed
        self._recent = (start, time.monotonic())

    def step(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of `step` and writes those of the step before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Writes what is pending; waits for the device."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        loss = metrics['loss'].value()
        config = self._setup.config
        if config.check_finite and not math.isfinite(loss):
            raise UserError(
                f'the loss is {loss} at step {step}; try a lower optimizer.learning_rate or more '
                f'warm-up (check_finite=False goes on regardless)'
            )
        self._progress.update(step, loss)
        if step % config.log_every == 0 or step == config.num_steps:
            values = {name: mean.value() for name, mean in jax.device_get(metrics).items()}
            before, then = self._recent
            now = time.monotonic()
            rate = (step - before) * self._setup.tokens_per_step / max(now - then, 1e-9)
            self._recent = (step, now)
            self._write({'step': step, 'split': 'train', **values, 'tokens_per_second': rate})

    def evaluation(self, step: int, name: str, values: dict[str, float], gzip: float) -> None:
        """Writes the result of an evaluation."""
        self._write({'step': step, 'split': name, **values})
        self._progress.note(evaluation_line(step, name, values, gzip))
        self._recent = (step, time.monotonic())

    @property
    def seconds(self) -> float:
        """Wall time of the run, earlier parts included."""
        return time.monotonic() - self._began

    def close(self) -> None:
        """Closes the writers and leaves the bar."""
        self._progress.close()
        for writer in self._writers:
            writer.close()

    def _write(self, record: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write({**record, 'seconds': round(self.seconds, 3)})


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; a second one of them acts at once."""
    caught: list[int] = []
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(signum: int, frame: Any) -> None:
        caught.append(signum)
        for s, handler in old.items():
            signal.signal(s, handler)

    try:
        for s in old:
            signal.signal(s, handle)
    except ValueError:  # not the main thread: signals are somebody else's
        yield caught
        return
    try:
        yield caught
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def _seconds_before(run: RunDir, start: int) -> float:
    return max((r['seconds'] for r in read_jsonl(run.metrics) if r['step'] <= start), default=0.0)


def _result(setup: Setup, run: RunDir, log: Log) -> dict[str, Any]:
    # Read back, so that a run killed just before this point ends with the same result.
    last = {r['split']: r for r in read_jsonl(run.metrics)}
    rates = [r['tokens_per_second'] for r in read_jsonl(run.metrics) if r['split'] == 'train']
    rate = sorted(rates)[len(rates) // 2]
    peak = devices.peak_flops()
    hidden = ('step', 'split', 'seconds', 'tokens_per_second')
    return {
        'steps': setup.config.num_steps,
        'tokens': setup.config.num_steps * setup.tokens_per_step,
        'metrics': {
            split: {k: v for k, v in record.items() if k not in hidden}
            for split, record in last.items()
        },
        'seconds': round(log.seconds, 3),
        'tokens_per_second': rate,
        'mfu': rate * setup.flops_per_token / peak if peak else None,
        'peak_memory_bytes': devices.peak_memory_bytes(),
    }
