"""Several runs of one program, trained in lock-step: one step, `vmap`ped over them.

A step of a small model leaves most of an accelerator idle; many of them in one program cost little
more than one. A product of a batch of matrices rounds otherwise than those of one, hence the
numbers are those of the run alone up to rounding. Evaluations and checkpoints are made run by run,
by the programs that a run alone has, and run directories are what they always are.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from bigmodel.config import ConfigDict
from bigmodel.data.atomic import write_json
from bigmodel.data.pipeline import prefetch
from bigmodel.metrics import Metrics
from bigmodel.training.console import print_plan
from bigmodel.training.gang import Gang
from bigmodel.training.rundir import RunDir
from bigmodel.training.running import Reason, Running, never
from bigmodel.training.setup import Setup
from bigmodel.training.signals import Interrupted, catch_signals
from bigmodel.training.state import State


def is_trained_alone(config: ConfigDict) -> bool:
    """Whether a run asks for what only it can have: a sharding, a check of kernels, a sample."""
    sharded = config.sharding.rules != 'dp' or config.sharding.mesh != 'data=-1'
    return sharded or config.model.check_kernel or bool(config.sample)


class Member:
    """A run that is trained beside others, and whether it has `ended`.

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
        self.setup, self.run, self.ended = setup, run, False
        self._tell, self._reason_to_stop = tell, reason_to_stop

    def __str__(self) -> str:
        return self.setup.config.name

    def open(self, count: int) -> None:
        """Opens the run directory, which may show that all steps are made; `count` are opened."""
        self._count = count
        name = self.setup.config.name
        self._running = running = Running(self.setup, self.run, self._reason_to_stop, name)
        self.make_state = running.state_maker()
        self.start, self.last = running.start, running.begin()
        if self.start == self.last:
            self._end(self.start)

    def after(
        self, step: int, read: Callable[[], Metrics], state: Callable[[], State], stop: bool
    ) -> None:
        """What is to be done after `step`; after a signal the run ends without a result."""
        if self._running.after(step, read, state, lambda step: stop):
            self._end(step, stop)

    def guarded(self, part: Callable[[], None]) -> None:
        """`part()`, or the end of this run alone."""
        try:
            part()
        except Exception as e:
            self.ended = True
            self._tell(e)

    def _end(self, step: int, stop: bool = False) -> None:
        self.ended = True
        self._running.close()
        if not stop:
            # Times are of all that were trained together.
            result = self._running.result(step) | {'together': self._count}
            write_json(self.run.result, result)  # its presence says that the run is finished
            self._tell(result)


def train_together(members: Sequence[Member]) -> None:
    """Trains runs of one program (programs.py) to their ends, resuming what is there.

    Raises Interrupted after a signal, when all have saved.
    """
    with members[0].setup.sharding.active(), catch_signals() as stop:
        # 1. Run directories, and the states of all side by side.
        for m in members:
            m.guarded(partial(m.open, len(members)))
        opened = [m for m in members if not m.ended]
        if not opened:
            return
        where = f'{opened[0].run.path}\nin one program with {", ".join(map(str, opened[1:]))}'
        print_plan(opened[0].setup, where, opened[0].start, moved='')
        gang = Gang([m.setup for m in opened])
        states = gang.states([m.make_state() for m in opened])
        step_all = gang.compiled(states)

        # 2. Steps, as many as the longest run has; what has ended is computed in vain.
        made, starts = 0, [m.start for m in opened]
        most = max(m.last - m.start for m in opened)
        batches = prefetch(partial(gang.batch, starts), 0, most)
        for made, batch in enumerate(batches, 1):
            states, metrics = step_all(states, gang.put(batch), gang.hparams)
            read, stopped = functools.cache(partial(jax.device_get, metrics)), bool(stop)
            for i, m in enumerate(opened):
                if not m.ended:
                    own = partial(_one_of, read, i), partial(gang.state, states, i)
                    m.guarded(partial(m.after, m.start + made, *own, stopped))
            if all(m.ended for m in opened):
                break

        # 3. The end.
        batches.close()
        if stop:
            raise Interrupted(stop[0], max(starts) + made)


def _one_of(read: Callable[[], Metrics], index: int) -> Metrics:
    """The metrics of one run."""
    return jax.tree.map(lambda x: x[index], read())
