"""How much of a run lies whole on every device, and how much each device holds of it."""

import math
from typing import Any

import jax

from bigmodel.pipelines import Plan
from bigmodel.sharding import Sharding
from bigmodel.training.state import State


def described(abstract: State, sharding: Sharding, plan: Plan | None = None) -> str:
    """Shares of bytes, for people; `abstract` holds shapes with their shardings.

    'Replicated' is what no axis of the mesh splits. Activations are those between blocks and those
    inside of them, as rules place them; heads and hidden units may be split further. `plan` is the
    pipeline's.
    """
    parts = [
        f'{name} {_percent(_held(tree))} ({_percent(_replicated(tree))} replicated)'
        for name, tree in (('parameters', abstract.params), ('optimizer', abstract.opt_state))
        if jax.tree.leaves(tree)
    ]
    between, inside = (_copies(sharding, length) for length in ('length', 'inner_length'))
    copies = f'{between}' if between == inside else f'{between} between blocks, {inside} inside'
    stages = f'; pipeline: {plan}' if plan else ''
    return f'each device holds {", ".join(parts)}; copies of an activation: {copies}{stages}'


def _held(tree: Any) -> float:
    """The share of the tree's bytes that one device holds."""
    leaves = jax.tree.leaves(tree)
    own = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    return own / _bytes(leaves)


def _replicated(tree: Any) -> float:
    """The share of the tree's bytes that lies whole on every device."""
    leaves = jax.tree.leaves(tree)
    return _bytes([x for x in leaves if x.sharding.is_fully_replicated]) / _bytes(leaves)


def _bytes(leaves: list[Any]) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def _copies(sharding: Sharding, length: str) -> int:
    """How many devices hold the same part of the residual stream."""
    ways = sharding.ways('batch') * sharding.ways(length)
    return sharding.mesh.size // ways


def _percent(share: float) -> str:
    return f'{100 * share:.3g} %'
