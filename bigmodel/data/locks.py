"""One process prepares while others wait: an advisory lock that dies with its holder."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator


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
