"""Parameters as a tree of paths: regex lists that assign a value to each, counts and tables.

A path joins the keys of the nested dict with '/', e.g. 'backbone/layers/block_0/mixer/q/weight'.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax

from bigmodel.errors import UserError

Rules = Sequence[tuple[str, Any]]


def path_of(key_path: Any) -> str:
    """A JAX key path as 'a/b/c'."""
    return jax.tree_util.keystr(key_path, simple=True, separator='/')


def flatten(tree: Any) -> dict[str, Any]:
    """Path -> leaf."""
    return {path_of(k): v for k, v in jax.tree_util.tree_flatten_with_path(tree)[0]}


def assign(rules: Rules, tree: Any, what: str) -> Any:
    """The value of the first regex that matches each path (from its start), as a tree.

    Raises UserError for a parameter that no regex matches and for a bad regex.
    """
    compiled = []
    for rule in rules:
        if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
            raise UserError(f'{what}: expected (regex, value) pairs, got {rule!r}')
        pattern, value = rule
        if not isinstance(value, bool | int | float):
            raise UserError(f'{what}: the value of {pattern!r} is {value!r}; give a number or bool')
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as e:
            raise UserError(f'{what}: {pattern!r} is not a regular expression: {e}') from e

    def find(key_path: Any, _: Any) -> Any:
        path = path_of(key_path)
        for pattern, value in compiled:
            if pattern.match(path):
                return value
        raise UserError(f"{what}: nothing matches {path!r}; end the list with ('.*', value)")

    return jax.tree_util.tree_map_with_path(find, tree)


def prune(tree: Any) -> Any:
    """A nested dict without the leaves that are None and what is empty without them."""
    if not isinstance(tree, dict):
        return tree
    pruned = {k: prune(v) for k, v in tree.items()}
    return {
        k: v for k, v in pruned.items() if v is not None and not (isinstance(v, dict) and not v)
    }


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of these paths."""
    return flax.traverse_util.unflatten_dict(flat, sep='/')


def count(tree: Any) -> int:
    """How many scalars the tree holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """How many bytes the arrays of the tree take, one copy."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
