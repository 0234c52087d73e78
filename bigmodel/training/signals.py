"""SIGINT and SIGTERM ask a run to save and stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name} after step {step}')
        self.signum = signum


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
