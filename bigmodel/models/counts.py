"""What a model costs: parameters by path, floating-point operations a token."""

import math
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.sharding import is_box


def flops_per_token(model: ConfigDict, boxed: Any, seq_len: int) -> int:
    """Training FLOPs a token: 6 a weight in a matrix product, and 12·depth·H·K·L for attention.

    Chowdhery et al. 2022, appendix B: no recomputation, no discount for the causal mask.
    """
    shapes = params_lib.flatten(jax.tree.map(lambda b: b.value, boxed, is_leaf=is_box))
    weights = sum(math.prod(s.shape) for path, s in shapes.items() if path.endswith('/weight'))
    tied = not any(path.startswith('head/') for path in shapes)
    if tied:
        weights += math.prod(shapes['backbone/tokens/table'].shape)
    attention = 12 * model.depth * model.num_heads * model.head_dim * seq_len
    return 6 * weights + attention


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
