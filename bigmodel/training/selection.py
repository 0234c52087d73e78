"""What is trained: whole parameters, and the last layers of those that are stacked by layer."""

import dataclasses
from typing import Any

import jax
import numpy as np

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.depths import depths


@dataclasses.dataclass(frozen=True)
class Selection:
    """The trained part of a tree of parameters.

    `trained` says of each whether any of it is, `first` from which layer of its first dim on.
    """

    trained: Any
    first: Any

    def of(self, values: Any) -> Any:
        """The values of trained parameters, as a tree of those alone."""
        return params_lib.prune(jax.tree.map(lambda t, x: x if t else None, self.trained, values))

    def layers(self) -> dict[str, int]:
        """The path of each trained parameter, with the first of its layers that is."""
        return params_lib.flatten(self.of(self.first))

    def part(self, params: Any) -> Any:
        """What is trained of `params`: frozen ones are left out, and so are frozen layers.

        A number for all layers of a parameter stays one.
        """

        def cut(k: int, x: Any) -> Any:
            return x[k:] if k and np.ndim(x) else x

        return self.of(jax.tree.map(cut, self.first, params))

    def whole(self, params: Any, part: Any) -> Any:
        """`params` with `part` in its place."""
        flat = params_lib.flatten(part)

        def put(path: Any, k: int, old: Any) -> Any:
            new = flat.get(params_lib.path_of(path), old)
            return old.at[k:].set(new) if k and new is not old else new

        return jax.tree_util.tree_map_with_path(put, self.first, params)


def select(config: ConfigDict, shapes: Any) -> Selection:
    """What `optimizer.train` and `optimizer.last_layers` choose.

    Raises UserError when that is nothing, and where layers have no one order.
    """
    last, depth = config.optimizer.last_layers, config.model.depth
    trained = params_lib.assign(config.optimizer.train, shapes, 'optimizer.train')
    first = jax.tree.map(lambda _: 0, shapes)
    if last:
        if not 0 < last <= depth:
            raise UserError(
                f'optimizer.last_layers={last} must be in 1 to model.depth={depth}; '
                f'0: all that optimizer.train names'
            )
        places = depths(config.model, shapes, f'optimizer.last_layers={last} counts from the top')
        frozen = jax.tree.map(lambda place: np.ravel(place <= depth - last), places)
        trained = jax.tree.map(lambda t, f: bool(t) and not f.all(), trained, frozen)
        first = jax.tree.map(lambda f: int(f.sum()) % f.size, frozen)
    if not any(jax.tree.leaves(trained)):
        raise UserError('optimizer.train freezes every parameter; let one regex be True')
    return Selection(trained, first)


def multipliers(config: ConfigDict, shapes: Any) -> Any:
    """`optimizer.layer_decay` to the power of the distance from the top: the head has 1, the last
    layer decay, the inputs decay^(depth + 1) (Howard & Ruder 2018; numbered as by Bao et al. 2021).
    """
    decay, depth = config.optimizer.layer_decay, config.model.depth
    if not 0 < decay <= 1:
        raise UserError(f'optimizer.layer_decay={decay} must be in (0, 1]; 1: the same for all')
    if decay == 1:
        return jax.tree.map(lambda _: 1.0, shapes)
    places = depths(config.model, shapes, f'optimizer.layer_decay={decay} falls with the depth')
    return jax.tree.map(lambda place: decay ** (depth + 1 - place), places)
