"""The loop: a list of stages in a fixed order."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax

from bigmodel import hosts
from bigmodel.data.pipeline import prefetch
from bigmodel.tasks.by_source import by_source
from bigmodel.training.batches import put_batch
from bigmodel.training.clock import Clock
from bigmodel.training.console import print_plan
from bigmodel.training.exhausted import exhausting
from bigmodel.training.kernel_check import check_kernels, require, summary
from bigmodel.training.lowering import lower_step
from bigmodel.training.profiling import Profile
from bigmodel.training.rundir import RunDir
from bigmodel.training.running import Reason, Running, never
from bigmodel.training.setup import Setup
from bigmodel.training.signals import Interrupted, catch_signals
from bigmodel.training.state import State


def train(
    setup: Setup,
    run: RunDir,
    reason_to_stop: Reason = never,
    clock: Clock | None = None,
    profile: Profile | None = None,
) -> tuple[State, dict[str, Any]]:
    """Trains to `num_steps` (resuming what is there); returns the state and what came out.

    After evaluations `reason_to_stop` is asked whether the run should end; '' means to go on.
    `clock` counts where the time goes, from now on where none is given; `profile` traces steps.
    Raises Exhausted where memory does not suffice, and Interrupted when SIGINT or SIGTERM asked to
    stop, after saving.
    """
    with setup.sharding.active(), exhausting(setup), catch_signals() as caught:
        # 1. The run directory, and what evaluations read.
        clock, profile = clock or Clock(), profile or Profile()
        running = Running(setup, run, clock, reason_to_stop)
        profile.begin(run.profile, running.start)
        moved = hosts.from_first(lambda: run.moved(setup))
        print_plan(setup, str(run.path), running.start, moved)

        # 2. The state, and the step. An initial state is made while the step compiles.
        state, train_step, _ = compile_beside(setup, running.state_maker())
        if setup.config.model.check_kernel:
            found = check_kernels(setup, state.params, state.companions)
            report = hosts.from_first(lambda: found)
            run.add(kernel_check=report)
            print(f'{"checked":>9}  {summary(report)}', flush=True)
            require(report)

        # 3. Steps, after each of which what is due is logged, evaluated and saved.
        def newest() -> State:
            return state

        step, stop = running.start, hosts.Stop(caught)
        batches = prefetch(setup.data.batches, running.start, running.begin(), take=clock.take)
        for step, batch in enumerate(batches, running.start + 1):
            batch = put_batch(batch, setup.sharding)
            clock.count('input')
            with profile.before(step, state):
                state, metrics = train_step(state, batch, setup.hparams)
            clock.computing(metrics)
            profile.after(step, state)
            if running.after(step, partial(jax.device_get, metrics), newest, stop.after):
                break

        # 4. The end: wait for the last checkpoint, then say what came out.
        batches.close()
        profile.close()
        running.close()
        if stop.signum:
            raise Interrupted(stop.signum, step)
        result = running.result(step)
        signum = stop.at_end()
        if signum:  # came meanwhile, and is for whatever would follow
            raise Interrupted(signum, step)
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
