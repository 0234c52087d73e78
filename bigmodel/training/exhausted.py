"""Where the memory does not suffice for a run: what is known of it is kept for an explanation."""

import contextlib
from collections.abc import Iterator

import jax

from bigmodel.training.setup import Setup

SAID = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory', 'Ran out of memory')


class Exhausted(RuntimeError):
    """The memory did not suffice for the run of `setup` (planning/exhausted.py explains it).

    Its text is what the device, or Python, said.
    """

    def __init__(self, setup: Setup, said: str) -> None:
        super().__init__(said)
        self.setup = setup


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no more memory."""
    said = str(error)
    of_device = isinstance(error, jax.errors.JaxRuntimeError) and any(s in said for s in SAID)
    return of_device or isinstance(error, MemoryError)


@contextlib.contextmanager
def exhausting(setup: Setup) -> Iterator[None]:
    """Within this context a lack of memory raises Exhausted."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as e:
        if not is_of_memory(e):
            raise
        raise Exhausted(setup, str(e) or type(e).__name__) from e
