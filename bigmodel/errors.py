"""The one exception that a user can cause, and how to suggest what was meant."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, an argument or an input: its message is one line that says the fix.

    `launch.py` prints it without a traceback and exits with code 2 (`--debug` shows the traceback).
    """

    exit_code = 2


class OutOfMemory(UserError):
    """What was asked for takes more memory than there is: the message has several lines."""

    exit_code = 3


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the choice closest to `name`, or ''."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f' Did you mean {close[0]!r}?' if close else ''


def unknown(what: str, name: str, choices: Iterable[str]) -> UserError:
    """An unknown name: the error lists the choices and the nearest one."""
    choices = sorted(choices)
    listed = ', '.join(choices) or 'none'
    return UserError(f'unknown {what} {name!r}.{nearest(name, choices)} Choices: {listed}')
