"""Files that are either absent (or as before) or whole, also after a kill."""

import errno
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO


def write(path: pathlib.Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Lets `fill` write to a temporary file beside `path`, then renames it to `path`."""
    temporary = _temporary(path)
    with open(temporary, 'wb') as file:
        fill(file)
    os.replace(temporary, path)


def check(path: pathlib.Path) -> None:
    """Raises the OSError that `write` would, as far as can be told before there is something to
    write; what is at `path` stays as it is.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = _temporary(path)
    temporary.touch()
    temporary.unlink()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` as UTF-8."""
    write(path, lambda file: file.write(text.encode('utf-8')))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as readable JSON."""
    write_text(path, json.dumps(value, indent=2) + '\n')


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """A file beside `path`, in a folder that exists from then on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f'{path.name}.{os.getpid()}.tmp')
