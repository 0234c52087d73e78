"""Several runs of one program, trained in lock-step: one step, `vmap`ped over them.

A step of a small model leaves most of an accelerator idle; many of them in one program cost little
more than one. A product of a batch of matrices rounds otherwise than those of one, hence the
numbers are those of the run alone up to rounding. Evaluations and checkpoints are made run by run,
by the programs that a run alone has, and run directories are what they always are.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from bigmodel.config import ConfigDict
from bigmodel.data.atomic import write_json
from bigmodel.data.pipeline import prefetch
from bigmodel.metrics import Metrics
from bigmodel.models.remat import offloads
from bigmodel.training.clock import Clock
from bigmodel.training.console import print_plan
from bigmodel.training.gang import Gang
from bigmodel.training.rundir import RunDir
from bigmodel.training.running import Reason, Running, never
from bigmodel.training.setup import Setup
from bigmodel.training.signals import Interrupted, catch_signals
from bigmodel.training.state import State


def is_trained_alone(config: ConfigDict) -> bool:
    """Whether a run asks for what only it can have: a sharding, the host's memory, a check of
    kernels, a sample.
    """
    sharded = config.sharding.rules != 'dp' or config.sharding.mesh != 'data=-1'
    on_host = config.optimizer.offload or offloads(config.model.remat)
    return sharded or on_host or config.model.check_kernel or bool(config.sample)


class Member:
    """A run that is trained beside others, with the number of its last `step`, and whether it has
    `ended`.

    `tell` is called when it has: with its result, which is written then, or with what it raised,
    which leaves the others alone.
    """

    def __init__(
        self,
        setup: Setup,
        run: RunDir,
        tell: Callable[[Any], None],
        reason_to_stop: Reason = never,
    ) -> None:
        self.setup, self.run, self.step, self.ended = setup, run, 0, False
        self._tell, self._reason_to_stop = tell, reason_to_stop
        self._running: Running | None = None
        self._begun = self.failed = False

    def __str__(self) -> str:
        return self.setup.config.name

    def open(self, clock: Clock) -> None:
        """Opens the run directory; `clock` is that of all."""
        self._running = Running(self.setup, self.run, clock, self._reason_to_stop, str(self))
        self.step = self._running.start
        self.moved = self.run.moved(self.setup)
        self._make_state = self._running.state_maker()

    def state(self, companions: bool) -> State:
        """The state to start from, with or without companions; can be had once."""
        make, self._make_state = self._make_state, None
        state = make()
        return state if companions else state.replace(companions={})

    def begin(self, together: int) -> None:
        """Opens the writers, which may show that all steps are made."""
        self._together, self._begun = together, True
        self.last = self._running.begin()
        self.ended = self.step == self.last

    def after(self, read: Callable[[], Metrics], state: Callable[[], State], stop: bool) -> None:
        """What is to be done after a step; with `stop` the run ends."""
        self.step += 1
        self.ended = self._running.after(self.step, read, state, lambda step: stop)

    def finish(self) -> None:
        """Writes what came out, and tells."""
        self.close()
        result = self._running.result(self.step)
        # The time is of all, and so is what the devices did in it.
        result |= {'together': self._together, 'mfu': None}
        write_json(self.run.result, result)  # its presence says that the run is finished
        self._tell(result)

    def close(self) -> None:
        """Waits for the last checkpoint, and closes the writers."""
        if self._begun:
            self._begun = False
            self._running.close()

    def guarded(self, part: Callable[[], None]) -> None:
        """`part()`, or the end of this run alone; what the device raises is of all."""
        try:
            part()
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as e:
            self.ended = self.failed = True
            with contextlib.suppress(Exception):
                self.close()
            self._tell(e)


def train_together(members: Sequence[Member]) -> None:
    """Trains runs of one program (programs.py) to their ends, resuming what is there.

    Raises Interrupted after a signal, when all have saved, and what the program that they share
    raises.
    """
    with members[0].setup.sharding.active(), catch_signals() as caught:
        try:
            _train(members, caught)
        except Exception:
            if not caught:
                raise
        finally:
            for m in members:
                with contextlib.suppress(Exception):
                    m.close()
        if caught:
            raise Interrupted(caught[0], max(m.step for m in members))


def _train(members: Sequence[Member], caught: list[int]) -> None:
    # 1. Run directories, and the states of all side by side.
    clock = Clock()
    for m in members:
        m.guarded(partial(m.open, clock))
    live = [m for m in members if not m.ended]
    if not live:
        return
    first = live[0]
    where = f'{first.run.path}\nin one program with {", ".join(map(str, live[1:]))}'
    print_plan(first.setup, where, first.step, first.moved)
    gang = Gang([m.setup for m in live])
    states = gang.states([m.state(companions=m is first) for m in live])
    gang.compiled(states)
    for m in live:
        m.guarded(partial(m.begin, len(live)))
        if m.ended and not m.failed:
            m.guarded(m.finish)

    # 2. Steps. What has ended is computed in vain, until half of them have.
    while True:
        states = _in_lockstep(gang, live, states, caught, clock)
        places = [i for i, m in enumerate(live) if not m.ended]
        if not places or caught:
            return
        left = [gang.state(states, i) for i in places]
        live = [live[i] for i in places]
        gang = Gang([m.setup for m in live])
        states = gang.states(left)


def _in_lockstep(
    gang: Gang, members: list[Member], states: State, caught: list[int], clock: Clock
) -> State:
    """The states when at most half of the members go on, or all are to stop."""
    step_all, starts = gang.compiled(states), [m.step for m in members]
    most = max((m.last - m.step for m in members if not m.ended), default=0)
    batches = prefetch(partial(gang.batch, starts), 0, most, take=clock.take)
    for batch in batches:
        batch = gang.put(batch)
        clock.count('input')
        states, metrics = step_all(states, batch, gang.hparams)
        clock.computing(metrics)
        read, stop = functools.cache(partial(jax.device_get, metrics)), bool(caught)
        live = [(i, m) for i, m in enumerate(members) if not m.ended]
        for i, m in live:
            own = partial(_one_of, read, i), partial(gang.state, states, i)
            m.guarded(partial(m.after, *own, stop))
        for _, m in live:  # when all of their checkpoints are under way
            if m.ended and not m.failed and not stop:
                m.guarded(m.finish)
        if stop or 2 * sum(not m.ended for m in members) <= len(members):
            break
    batches.close()
    return states


def _one_of(read: Callable[[], Metrics], index: int) -> Metrics:
    """The metrics of one run."""
    return jax.tree.map(lambda x: x[index], read())
