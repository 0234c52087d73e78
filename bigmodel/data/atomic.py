"""Files that are either absent (or as before) or whole, also after a kill."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO


def write(path: pathlib.Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Lets `fill` write to a temporary file beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    with open(temporary, 'wb') as file:
        fill(file)
    os.replace(temporary, path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` as UTF-8."""
    write(path, lambda file: file.write(text.encode('utf-8')))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as readable JSON."""
    write_text(path, json.dumps(value, indent=2) + '\n')
