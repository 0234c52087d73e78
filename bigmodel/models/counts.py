"""What a model costs: parameters by path, floating-point operations a token."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.mixers import MIXERS
from bigmodel.models.stack import layer_specs
from bigmodel.sharding import is_box
from bigmodel.specs import arguments, make, parse


def flops_per_token(model: ConfigDict, boxed: Any, seq_len: int) -> int:
    """Training FLOPs a token: 6 a weight in a matrix product, and 12·H·K·L a layer of attention.

    Chowdhery et al. 2022, appendix B: no recomputation, no discount for the causal mask. Weights of
    experts count as often as a token meets them.
    """
    shapes = params_lib.flatten(jax.tree.map(lambda b: b.value, boxed, is_leaf=is_box))
    weights = round(sum(_active_weights(model, boxed)))
    tied = not any(path.startswith('head/') for path in shapes)
    if tied:
        weights += math.prod(shapes['backbone/tokens/table'].shape)
    layers = layer_specs(model)
    attending = sum('kernel' in arguments(MIXERS[parse(x['mixer']).name]) for x in layers)
    depth = model.depth * attending // len(layers)
    attention = 12 * depth * model.num_heads * model.head_dim * seq_len
    return 6 * weights + attention


def _active_weights(model: ConfigDict, boxed: Any) -> Iterator[float]:
    """How many numbers of each weight a token is multiplied with."""
    ffns = [make(FFNS, specs['ffn'], 'model.ffn') for specs in layer_specs(model)]
    for key_path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
        path = params_lib.path_of(key_path)
        if not path.endswith('/weight'):
            continue
        block = re.search(r'/block_(\d+)/ffn/', path)
        share = ffns[int(block[1])].active_share() if block and 'experts' in box.names[:2] else 1.0
        yield share * math.prod(box.value.shape)


def parameter_table(boxed: Any, stds: dict[str, float] | None = None) -> list[str]:
    """One line a parameter: path, logical axes with sizes, count (and initial std)."""
    leaves = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=is_box)[0]
    rows = []
    for path, box in leaves:
        dims = ' '.join(f'{a}={n}' for a, n in zip(box.names, box.value.shape, strict=True))
        name = params_lib.path_of(path)
        std = f'{stds[name]:.4g}' if stds else ''
        rows.append((name, dims, f'{math.prod(box.value.shape):,}', std))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    lines = [
        f'{n:<{widths[0]}}  {d:<{widths[1]}}  {c:>{widths[2]}}  {s:>{widths[3]}}'.rstrip()
        for n, d, c, s in rows
    ]
    return [*lines, f'total {params_lib.count(boxed):,}']
