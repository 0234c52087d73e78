"""What a model costs: parameters by path, floating-point operations a token."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.layers.cross import CROSSES
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.mixers import MIXERS
from bigmodel.models.heads import heads_of
from bigmodel.models.quantised import float_shapes
from bigmodel.models.stack import encoder_specs, layer_specs
from bigmodel.sharding import is_box
from bigmodel.specs import make, parse


def flops_per_row(model: ConfigDict, boxed: Any, length: int, source_length: int = 0) -> int:
    """Training FLOPs of a row of `length` tokens, and of a source that an encoder reads.

    6 a weight and token, and 12·H·K a layer of attention and query–key pair (Chowdhery et al. 2022,
    appendix B), half of that for a long convolution's one product: no recomputation, no discount
    for the causal mask. A prompt makes rows longer. Weights of experts count as often as a token
    meets them, those of labels once.
    """
    products = 0.0
    length += sum(box.value.shape[0] for box in boxed.get('prompt', {}).values())
    for path, names, weights in _active_weights(model, boxed):
        of_source = path.startswith('encoder/') or re.search(r'/cross/[kv]/', path)
        tokens = source_length if of_source else length
        products += 6 * weights * (1 if 'labels' in names else tokens)
    layers, encoder = layer_specs(model), encoder_specs(model)
    pairs = _products(layers, 'mixer') * model.depth * length**2
    pairs += _products(layers, 'cross') * model.depth * length * source_length
    pairs += _products(encoder, 'mixer') * model.encoder_depth * source_length**2
    ahead = _products(layers[-1:], 'mixer') * length**2
    ahead += _products(layers[-1:], 'cross') * length * source_length
    pairs += _tokens_ahead(boxed) * ahead
    return round(products + 6 * pairs * model.num_heads * model.head_dim)


def _products(layers: Sequence[Mapping[str, str]], slot: str) -> float:
    """How many products over all query–key pairs a mixer or cross-attention has, in the mean."""
    table = {'mixer': MIXERS, 'cross': CROSSES}[slot]
    parts = [table[parse(specs[slot]).name] for specs in layers if specs[slot]]
    return sum(part.pair_products for part in parts) / max(len(layers), 1)


def _active_weights(model: ConfigDict, boxed: Any) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """How many numbers of each weight a token is multiplied with, by path, with the axes."""
    sides = {'backbone': layer_specs(model), 'encoder': encoder_specs(model)}
    ffns = {k: [make(FFNS, s['ffn'], 'model.ffn') for s in v] for k, v in sides.items()}
    last = ffns['backbone'][-1]  # of what predicts tokens ahead
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
    boxes = float_shapes({params_lib.path_of(key_path): box for key_path, box in leaves})
    times = {'head': 1 + _tokens_ahead(boxed)}
    if model.share == 'all':
        depths = {'backbone': model.depth, 'encoder': model.encoder_depth}
        times |= {side: depths[side] // max(len(specs), 1) for side, specs in sides.items()}
    for path, box in boxes.items():
        if path.endswith('/weight'):
            used = times.get(path.split('/')[0], 1)
            # The first axis of experts' own matrices, beside that of the layers; a router's last.
            if next(axis for axis in box.names if axis != 'layers') == 'experts':
                side, number = re.search(r'^(\w+)/.*?block_(\d+)/ffn/', path).groups()
                used *= (ffns[side][int(number)] if side in sides else last).active_share()
            yield path, box.names, used * math.prod(box.value.shape)
    tied = sum(getattr(head, 'tied', False) for head in heads_of(model.head))
    if tied:
        path = 'inputs/tokens/table'
        yield path, boxes[path].names, tied * times['head'] * math.prod(boxes[path].value.shape)


def _tokens_ahead(boxed: Any) -> int:
    """How many tokens after the next are predicted, each by one more layer and use of the head."""
    return sum(name.startswith('join_') for name in boxed.get('ahead', {}))


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
    total = params_lib.count(float_shapes({params_lib.path_of(p): box for p, box in leaves}))
    return [*lines, f'total {total:,}']
