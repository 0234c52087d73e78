"""How much of a model is trained, and what remembering that takes."""

import dataclasses
import re

import jax

from bigmodel import params as params_lib
from bigmodel.models.quantised import float_shapes
from bigmodel.training.optimizers import Optimizer
from bigmodel.training.state import State

# What scaling laws may leave out (Kaplan et al. 2020, §2.1); a head of its own is not.
EMBEDDINGS = r'(inputs|backbone/position)/'


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Counts of parameters, and bytes of one copy of them and of the optimizer's state.

    `num_embedding` are those of the inputs and of positions.
    """

    num_params: int
    num_embedding: int
    num_trained: int
    param_bytes: int
    optimizer_bytes: int

    def __str__(self) -> str:
        share = 100 * self.num_trained / self.num_params
        return (
            f'{self.num_trained:,} of {self.num_params:,} parameters ({share:.3g} %), '
            f'optimizer state {_readable(self.optimizer_bytes)}, '
            f'parameters {_readable(self.param_bytes)}'
        )


def sizes_of(abstract: State, optimizer: Optimizer) -> Sizes:
    """The sizes of a state, from its shapes; averages count as the optimizer's."""
    shapes = float_shapes(params_lib.flatten(abstract.params))
    embeddings = {path: s for path, s in shapes.items() if re.match(EMBEDDINGS, path)}
    return Sizes(
        params_lib.count(shapes),
        params_lib.count(embeddings),
        params_lib.count(jax.eval_shape(optimizer.selection.part, abstract.params)),
        params_lib.num_bytes(abstract.params),
        params_lib.num_bytes(abstract.opt_state),
    )


def _readable(size: int) -> str:
    for unit, exponent in (('GB', 9), ('MB', 6), ('kB', 3)):
        if size >= 10**exponent:
            return f'{size / 10**exponent:.3g} {unit}'
    return f'{size} bytes'
