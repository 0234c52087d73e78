"""Advisory locks that die with their holder: to wait for another process, or to do other work."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

PROBES = 5


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`.

    Where the system has no such locks nothing is held; the writers stay correct without it (each
    file appears by a rename and has the same content whoever wrote it), they only repeat work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as file:
        try:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f'waiting for another process that prepares {path}', file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


@contextlib.contextmanager
def claimed(path: pathlib.Path) -> Iterator[bool]:
    """Whether this process holds the lock on the file `path`, which it then does in the context.

    Does not wait. Raises OSError where the system has no such locks: without them two processes
    would do the same work.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a') as file:
        for _ in range(PROBES):  # `is_held` may hold it for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                yield True
                return
        yield False


def is_held(path: pathlib.Path) -> bool:
    """Whether another process, or another context of this one, has claimed the file `path`."""
    import fcntl

    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
