"""How long this process has traced and compiled programs, which is no time of training."""

import functools
import threading
import time
from typing import Any

import jax

EVENTS = (
    '/jax/core/compile/jaxpr_trace_duration',
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
)


class Compilation:
    """Wall time in which anything was compiled: what is nested, or at the same time in several
    threads, counts once.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # so far
        self._spans: list[tuple[float, float]] = []  # apart from each other, in order
        self._lock = threading.Lock()

    def add(self, start: float, end: float) -> None:
        """Takes a span, which ends after those before it."""
        within = 0.0  # of it, counted before
        with self._lock:
            while self._spans and self._spans[-1][1] >= start:
                first, last = self._spans.pop()
                start, within = min(start, first), within + last - first
            self._spans.append((start, end))
            self.seconds += end - start - within

    def listen(self, event: str, seconds: float, **_: Any) -> None:
        """Takes an event of JAX that has just ended."""
        if event in EVENTS:
            now = time.monotonic()
            self.add(now - seconds, now)


@functools.cache
def compilation() -> Compilation:
    """Of this process, from the first call on."""
    found = Compilation()
    jax.monitoring.register_event_duration_secs_listener(found.listen)
    return found
