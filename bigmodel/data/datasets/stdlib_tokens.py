"""What the source `pystdlib_tokens` holds: the standard library's sources in words of Python, each
with its lexical class.
"""

import io
import keyword
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 1  # part of the fingerprint: raise it when the same files give other examples
CLASSES = ('name', 'keyword', 'number', 'string', 'operator', 'comment')
SPACE = None  # the class of what stands between words: none
_KINDS = {
    tokenize.NUMBER: 'number',
    tokenize.STRING: 'string',
    tokenize.OP: 'operator',
    tokenize.COMMENT: 'comment',
}
# Since Python 3.12 strings with expressions in them are several words.
_FSTRINGS = ('FSTRING_START', 'FSTRING_MIDDLE', 'FSTRING_END')
_KINDS |= {getattr(tokenize, n): 'string' for n in _FSTRINGS if hasattr(tokenize, n)}


class Word(NamedTuple):
    """A piece of source, and its class (None: white space and what ends a line)."""

    text: str
    kind: str | None


def words(source: str) -> list[Word]:
    """All of a source in words and the white space between them; [] where this Python cannot."""
    try:
        return list(_words(source))
    except (SyntaxError, tokenize.TokenError):
        return []


def _words(source: str) -> Iterator[Word]:
    begins, done = _line_starts(source), 0
    for token in tokenize.generate_tokens(io.StringIO(source, newline='').readline):
        kind = _kind(token)
        if kind is None or not token.string:
            continue
        start, end = (begins[line - 1] + column for line, column in (token.start, token.end))
        if start > done:
            yield Word(source[done:start], SPACE)
        yield Word(source[start:end], kind)
        done = end
    if done < len(source):
        yield Word(source[done:], SPACE)


def _kind(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return 'keyword' if keyword.iskeyword(token.string) else 'name'
    return _KINDS.get(token.type)


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in io.StringIO(source, newline=''):
        starts.append(starts[-1] + len(line))
    return starts
