"""Where the time of a run goes: every second is of exactly one kind.

The host runs ahead of the devices: it reads the metrics of step t−1 while they compute step t. So
what counts is not what the host did but what the devices had to wait for:

    compute     the devices compute a step; what the host does meanwhile is hidden and costs nothing
    input       they have nothing to do, because the next batch is not there or not yet on them
    host        they have nothing to do, because Python logs, decides or starts the next step
    evaluation  evaluations, from the last step's end on
    checkpoint  waiting for a checkpoint's copy, or for an earlier one; writing is hidden
    compile     tracing and compiling, or reading the compilation cache, whatever it is for
    start       imports, opening data, restoring or making the state, until the first step

A stretch of host time is compute when the devices are still at work at its end. Where they end
within it, it counts as the host's or the input's as a whole, hence `compute` is a bound from below;
waits for a batch are cut into pieces of 2 ms for this. A collective that waits for another host, or
a transfer within the step, is compute. Of several hosts it is the time of the first one: where
another one is late the first one's devices wait for it in the step. Of runs that are trained
together it is the time of all of them: one's evaluation is a wait of the others too.
"""

import queue
import time
from typing import Any

import jax

from bigmodel.training.compilation import compilation
from bigmodel.training.goodput import KINDS

HIDDEN = ('input', 'host')  # while the devices compute
POLL = 0.002  # seconds


class Clock:
    """Adds up seconds by kind, from `began` (of `time.time()`; default: now) on."""

    def __init__(self, began: float | None = None) -> None:
        now = time.time()
        self.began = now if began is None else min(began, now)
        self.totals = dict.fromkeys(KINDS, 0.0)
        self._compilation = compilation()
        self._compiled = self._compilation.seconds
        self._mark = time.monotonic() - (now - self.began)
        self._newest: Any = None  # an output of the newest step

    def count(self, kind: str) -> None:
        """Counts the time since the last call as `kind`, without what was compiled in it."""
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        compiled = min(self._compilation.seconds - self._compiled, elapsed)
        self._compiled += compiled
        kind = 'compute' if kind in HIDDEN and not self._idle() else kind
        self.totals['compile'] += compiled
        self.totals[kind] += elapsed - compiled

    def computing(self, outputs: Any) -> None:
        """Takes what the newest step returns, which the devices begin to compute."""
        self.count('compute')  # the call, which waits for them where nothing is asynchronous
        self._newest = jax.tree.leaves(outputs)[0]

    def take(self, ready: queue.Queue) -> Any:
        """The next batch of a queue; see `prefetch`."""
        self.count('host')
        while not self._idle():
            try:
                item = ready.get(timeout=POLL)
                break
            except queue.Empty:
                self.count('input')
        else:
            item = ready.get()
        self.count('input')
        return item

    def _idle(self) -> bool:
        if self._newest is not None and self._newest.is_ready():
            self._newest = None
        return self._newest is None
