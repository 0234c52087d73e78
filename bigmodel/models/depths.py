"""Where in the model a parameter is: 0 below the layers, 1, 2, … in them, depth + 1 above."""

import re
from typing import Any

import jax
import numpy as np

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.stack import layer_specs

# Inputs, prompts, and the encodings and the norm that act on them; encodings inside attention too.
_BELOW = re.compile(
    r'(adapter/)?(inputs|prompt|backbone/(position|layer_positions_\d+|embed_norm))/'
)
_LAYER = re.compile(r'(adapter/)?backbone/layers/block_(\d+)/')


def depths(model: ConfigDict, shapes: Any, why: str) -> Any:
    """The place of each parameter (numbered as by Bao et al. 2021): an int, or of layers that are
    stacked an array of one a layer, which broadcasts with the parameter.

    Raises UserError, which begins with `why`, for a model whose layers have no one order.
    """
    if model.encoder_depth:
        raise UserError(f'{why}, but model.encoder_depth={model.encoder_depth} makes two stacks')
    if model.share != 'none':
        raise UserError(f"{why}, but model.share={model.share!r} makes them the same; set 'none'")
    pattern = len(layer_specs(model))

    def place(key_path: Any, leaf: Any) -> Any:
        path = params_lib.path_of(key_path)
        if _BELOW.match(path):
            return 0
        inside = _LAYER.match(path)
        if not inside:
            return model.depth + 1
        numbers = 1 + int(inside[2]) + pattern * np.arange(leaf.shape[0])
        return numbers.reshape(-1, *[1] * (len(leaf.shape) - 1))

    return jax.tree_util.tree_map_with_path(place, shapes)
