"""The loop: a list of stages in a fixed order."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bigmodel.data.pipeline import prefetch
from bigmodel.tasks.by_source import by_source
from bigmodel.training.batches import put_batch
from bigmodel.training.checkpoints import Checkpoints
from bigmodel.training.console import print_plan
from bigmodel.training.evaluate import open_evaluations
from bigmodel.training.kernel_check import check_kernels, require, summary
from bigmodel.training.log import Log
from bigmodel.training.lowering import lower_step
from bigmodel.training.progress import watched
from bigmodel.training.result import result_of
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup
from bigmodel.training.signals import Interrupted, catch_signals
from bigmodel.training.state import State
from bigmodel.training.writers import draw_loss, read_jsonl


def never(run: RunDir) -> str:
    """No reason to end a run before `num_steps`."""
    return ''


def train(
    setup: Setup, run: RunDir, reason_to_stop: Callable[[RunDir], str] = never
) -> tuple[State, dict[str, Any]]:
    """Trains to `num_steps` (resuming what is there); returns the state and what came out.

    After evaluations `reason_to_stop` is asked whether the run should end; '' means to go on.
    Raises Interrupted when SIGINT or SIGTERM asked to stop, after saving.
    """
    config = setup.config
    with setup.sharding.active(), catch_signals() as stop:
        # 1. Splits that evaluations read, so that a mistake shows before anything is written.
        best = watched(config.checkpoint.best, config.evals, 'checkpoint.best', patience=False)
        patient = watched(config.stop_early, config.evals, 'stop_early', patience=True)
        evaluations = open_evaluations(setup)
        best.check(lambda name: evaluations[name].names(), 'checkpoint.best')
        patient.check(lambda name: evaluations[name].names(), 'stop_early')

        # 2. The run directory.
        run.create(setup)
        checkpoints = Checkpoints(
            run.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every
        )
        start = checkpoints.latest() or 0
        print_plan(setup, str(run.path), start)

        # 3. The state, and the programs. A checkpoint is read first, because it may be damaged; an
        # initial state is made while the step compiles.
        saved = checkpoints.restore(start, setup.abstract.saved) if start else {}
        make_state = partial(setup.resumed, saved) if start else setup.initial_state
        state, train_step, _ = compile_beside(setup, make_state)

        if config.model.check_kernel:
            report = check_kernels(setup, state.params, state.companions)
            run.add(kernel_check=report)
            print(f'{"checked":>9}  {summary(report)}', flush=True)
            require(report)

        # 4. Writers, which continue where the checkpoint is.
        elapsed = _seconds_before(run, start)
        log = Log(setup, run, start, elapsed)

        def evaluate_due(step: int, names: list[str]) -> None:
            log.flush()
            for name in names:
                # The step reuses the companions' memory too: they are those of the newest state.
                params = setup.optimizer.averaged(state.params, state.opt_state)
                values = evaluations[name](params, state.companions)
                gzip = evaluations[name].data.store.gzip_bits_per_byte
                log.evaluation(step, name, values, gzip)

        def reason() -> str:
            return patient.reason_to_stop(run.metrics) or reason_to_stop(run)

        # Read back, so that a run that was killed decides as one that was not.
        found, ended = best.best(run.metrics), reason()

        # 5. Steps. The host reads the metrics of a step while the device runs the next.
        batches = prefetch(setup.data.batches, start, start if ended else config.num_steps)
        step = start
        for step, batch in enumerate(batches, start + 1):
            state, metrics = train_step(state, put_batch(batch, setup.sharding), setup.hparams)
            log.step(step, metrics)
            last = step == config.num_steps
            due = [n for n, e in config.evals.items() if step % e.every == 0 or last]
            evaluate_due(step, due)
            if due:
                found, ended = best.best(run.metrics), reason()
            is_best = found.step == step
            if step % config.checkpoint.every == 0 or last or stop or ended or is_best:
                log.flush()
                checkpoints.save(step, setup.saved(state), found.step)
            if stop or ended:
                break

        # 6. The end: wait for the last checkpoint, then say what came out.
        batches.close()
        checkpoints.close()
        log.close()
        if stop:
            raise Interrupted(stop[0], step)
        draw_loss(run.metrics, run.loss, config.name)
        result = result_of(setup, run, log, step)
        result |= {'best': best.told(found), 'stopped_early': ended}
        if stop:  # came meanwhile, and is for whatever would follow
            raise Interrupted(stop[0], step)
        return state, result


def compile_beside(setup: Setup, make_state: Callable[[], State]) -> tuple[State, Any, float]:
    """`make_state()`, the training step compiled while that ran, and the seconds of compilation.

    The step reuses the memory of the old state.
    """
    began = time.perf_counter()
    lowered = setup.programs.once('lowered step', partial(_lower, setup))

    def compile_step() -> tuple[Any, float]:
        step = setup.programs.once('step', lowered.compile)
        return step, time.perf_counter() - began

    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(compile_step)
        state = make_state()
        return state, *compiling.result()


def _lower(setup: Setup) -> Any:
    """The training step, traced."""
    batch = put_batch(setup.data.batches(0), setup.sharding)
    task = by_source(setup.task, setup.data.parts)
    return lower_step(setup, task, batch, setup.companion_models)


def _seconds_before(run: RunDir, start: int) -> float:
    return max((r['seconds'] for r in read_jsonl(run.metrics) if r['step'] <= start), default=0.0)
