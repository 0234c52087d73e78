"""What a model costs: parameters by path, floating-point operations a token."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.layers.cross import CROSSES
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.mixers import MIXERS
from bigmodel.models.depths import depths
from bigmodel.models.heads import heads_of
from bigmodel.models.quantised import float_shapes
from bigmodel.models.stack import encoder_specs, layer_specs
from bigmodel.sharding import is_box
from bigmodel.specs import make, parse

TABLE = 'inputs/tokens/table'


def flops_per_row(
    model: ConfigDict,
    boxed: Any,
    length: int,
    source_length: int = 0,
    trained: Mapping[str, int] | None = None,
) -> int:
    """Training FLOPs of a row of `length` tokens, and of a source that an encoder reads.

    6 a weight and token, and 12·H·K a layer of attention and query–key pair (Chowdhery et al. 2022,
    appendix B), half of that for a long convolution's one product: no recomputation, no discount
    for the causal mask. A prompt makes rows longer. Weights of experts count as often as a token
    meets them, those of labels once.

    `trained` is the path of each trained parameter with the first of its layers that is (None: all
    are; {}: the forward pass). Of the 6 a weight, 2 are forward, 2 the gradient of what it reads,
    and 2 its own: a frozen one has 4, and one below the lowest layer with something trained 2, as
    products of pairs there have a third (encoder-decoders and shared layers have no lowest one). A
    weight with an adapter counts as trained: the gradient of the merged one is computed. Making
    that, once a step, is not counted.
    """
    length += sum(box.value.shape[0] for box in boxed.get('prompt', {}).values())
    boxes = _boxes(boxed)
    places = _places(model, boxes)
    trained = dict.fromkeys(boxes, 0) if trained is None else trained
    lowest = min((places[path][first] for path, first in trained.items()), default=math.inf)
    places |= {TABLE: places['head']} if TABLE in places else {}  # read as a head, if at all
    products = 0.0
    for path, names, weights in _active_weights(model, boxed, boxes):
        of_source = path.startswith('encoder/') or re.search(r'/cross/[kv]/', path)
        tokens = source_length if of_source else length
        passed = float(np.mean(places[path] >= lowest))
        each = 2 + 2 * passed + 2 * _share_trained(path, places, trained)
        products += each * weights * (1 if 'labels' in names else tokens)
    layers, encoder = layer_specs(model), encoder_specs(model)
    inside = [bool(place >= lowest) for place in range(1, model.depth + 1)]
    beyond = [bool(trained)] * model.encoder_depth
    pairs = _products(layers, 'mixer', inside) * length**2
    pairs += _products(layers, 'cross', inside) * length * source_length
    pairs += _products(encoder, 'mixer', beyond) * source_length**2
    ahead = [bool(trained)] * _tokens_ahead(boxed)
    pairs += _products(layers[-1:], 'mixer', ahead) * length**2
    pairs += _products(layers[-1:], 'cross', ahead) * length * source_length
    return round(products + pairs * model.num_heads * model.head_dim)


def _boxes(boxed: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
    return float_shapes({params_lib.path_of(key_path): box for key_path, box in leaves})


def _places(model: ConfigDict, boxes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where each parameter is, by layer (models/depths.py), and the 'head'; all at 0 where layers
    have no one order.
    """
    if model.encoder_depth or model.share != 'none':
        return {path: np.zeros(1) for path in [*boxes, 'head']}
    shapes = {path: box.value for path, box in boxes.items()}
    found = depths(model, shapes, '') | {'head': model.depth + 1}
    return {path: np.ravel(place) for path, place in found.items()}


def _share_trained(
    path: str, places: Mapping[str, np.ndarray], trained: Mapping[str, int]
) -> float:
    """Of the layers of a weight, those of which it or its adapter is trained."""
    own = [k for name, k in trained.items() if name == path or name.startswith(f'adapter/{path}/')]
    return 1 - min(own) / places[path].size if own else 0.0


def _products(layers: Sequence[Mapping[str, str]], slot: str, backward: Sequence[bool]) -> float:
    """FLOPs of the products over all query–key pairs, a pair and feature, of mixers or
    cross-attention: of as many layers as `backward` says whether gradients pass them.
    """
    table = {'mixer': MIXERS, 'cross': CROSSES}[slot]
    parts = [table[parse(specs[slot]).name].pair_products if specs[slot] else 0 for specs in layers]
    each = zip(itertools.cycle(parts), backward, strict=False)
    return float(sum((6 if back else 2) * part for part, back in each))


def _active_weights(
    model: ConfigDict, boxed: Any, boxes: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """How many numbers of each weight a token is multiplied with, by path, with the axes."""
    sides = {'backbone': layer_specs(model), 'encoder': encoder_specs(model)}
    ffns = {k: [make(FFNS, s['ffn'], 'model.ffn') for s in v] for k, v in sides.items()}
    last = ffns['backbone'][-1]  # of what predicts tokens ahead
    times = {'head': 1 + _tokens_ahead(boxed)}
    if model.share == 'all':
        stacks = {'backbone': model.depth, 'encoder': model.encoder_depth}
        times |= {side: stacks[side] // max(len(specs), 1) for side, specs in sides.items()}
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
        yield TABLE, boxes[TABLE].names, tied * times['head'] * math.prod(boxes[TABLE].value.shape)


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
