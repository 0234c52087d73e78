"""What the source `pystdlib_summaries` holds: functions of the standard library, and what they are
for in the words of their docstrings.
"""

import ast
import functools
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from bigmodel.data.datasets import stdlib_files
from bigmodel.data.splits import SPLITS

VERSION = 2  # part of the fingerprint: raise it when the same files give other examples


class Summary(NamedTuple):
    """The source of a function without its docstring, and the docstring's first line."""

    function: str
    summary: str


@functools.cache
def summaries() -> dict[str, tuple[Summary, ...]]:
    """Those of each split, which are split by file as `pystdlib` is; each function is in one."""
    documents = stdlib_files.documents()
    found: dict[str, list[Summary]] = {split: [] for split in SPLITS}
    splits, seen = stdlib_files.split_of(documents), set()
    for wanted in SPLITS:  # what is in several files is of training
        for document, split in zip(documents, splits, strict=True):
            if split != wanted or document.label == stdlib_files.REFERENCE:
                continue
            new = [each for each in summaries_of(document.text) if each.function not in seen]
            seen.update(each.function for each in new)
            found[split] += new
    return {split: tuple(each) for split, each in found.items()}


def summaries_of(text: str) -> Iterator[Summary]:
    """Yields the functions and methods that have a docstring and do something."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(_parsed(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        told, doc = (ast.get_docstring(node) or '').strip(), node.body[0]
        own_lines = node.lineno < doc.lineno and doc.end_lineno < node.body[1].lineno
        if told and own_lines:
            kept = lines[node.lineno - 1 : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
            yield Summary(textwrap.dedent(''.join(kept)).strip(), told.splitlines()[0].strip())


def _parsed(text: str) -> ast.AST:
    """The module; an empty one where this Python cannot read it."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of escapes in old strings
        try:
            return ast.parse(text)
        except SyntaxError:
            return ast.Module([], [])
