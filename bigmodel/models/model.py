"""The slot tables, and `build_model`: from a resolved config to a linen module.

This is the one place where configs meet layers. `init` and `apply` of linen are called here alone:
`init_params` and `apply`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from bigmodel import sharding
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.feedforward import ACTIVATIONS
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.initializers import INITS, Parametrisation
from bigmodel.layers.kernels import KERNELS
from bigmodel.layers.linear import Embed
from bigmodel.layers.losses import LOSSES, REPORTS, mean_reports, total_losses
from bigmodel.layers.masks import MASKS
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS
from bigmodel.layers.weights import WEIGHTS
from bigmodel.models.backbone import REMAT, Backbone
from bigmodel.models.heads import HEADS
from bigmodel.models.stack import build_layers, kernel_names
from bigmodel.specs import bind, make

SLOTS: dict[str, Mapping[str, Any]] = {
    'position': POSITIONS,
    'mask': MASKS,
    'norm': NORMS,
    'ffn': FFNS,
    'mixer': MIXERS,
    'block': BLOCKS,
    'head': HEADS,
    'init': INITS,
    'kernel': KERNELS,
    'activation': ACTIVATIONS,
    'weights': WEIGHTS,
}


class Model(nn.Module):
    """A backbone and a head."""

    make_backbone: Callable[..., Backbone]
    make_head: Callable[..., nn.Module]

    def setup(self) -> None:
        self.backbone = self.make_backbone()
        self.head = self.make_head()

    def __call__(
        self,
        tokens: Int[Array, 'B L'],
        positions: Int[Array, 'B L'] | None = None,
        segments: Int[Array, 'B L'] | None = None,
        cache_length: int | None = None,
    ) -> Array:
        """The head's outputs: logits_BLV of an LM, logits_BC of a classifier."""
        x_BLD = self.backbone(tokens, positions, segments, cache_length)
        return self.head(x_BLD, self.backbone, segments)


def build_model(model: ConfigDict, vocab_size: int, num_labels: int, platform: str) -> Model:
    """Builds the model of a resolved `config.model`.

    `vocab_size` is the tokenizer's; `num_labels` the data's (0: unlabelled). Raises UserError for
    any part or shape that cannot be, before anything is compiled.
    """
    if model.vocab_size and vocab_size > model.vocab_size:
        raise UserError(
            f'the tokenizer has {vocab_size} tokens but model.vocab_size={model.vocab_size}; '
            f'set it to 0 or to at least {vocab_size}'
        )
    _check_choices(model)
    known = _known(model, vocab_size, num_labels, platform)
    layers = build_layers(model, known, platform)
    repeats = model.depth // len(layers)
    own = dict.fromkeys([model.position, *(layer.specs['position'] for layer in layers)])
    positions = {spec: bind(POSITIONS, spec, 'model.position', **known) for spec in own}
    embed = partial(
        Embed, known['vocab_size'], model.width, init=known['init'], dtype=known['dtype']
    )
    backbone = partial(
        Backbone,
        embed=embed,
        positions=positions,
        blocks=tuple(layer.make for layer in layers),
        norm=bind(NORMS, model.norm, 'model.norm', axis='embed'),
        repeats=repeats,
        num_heads=model.num_heads,
        scale_embed=model.scale_embed,
        dropout=model.dropout,
        remat=model.remat,
        unroll=min(model.unroll or (repeats if repeats <= 8 else 1), repeats),
    )
    return Model(backbone, _head(model, num_labels, known))


def make_init(model: ConfigDict) -> Parametrisation:
    """The initialisation that `model.init` names."""
    return make(INITS, model.init, 'model.init', depth=model.depth, width=model.width)


def _known(model: ConfigDict, vocab_size: int, num_labels: int, platform: str) -> dict[str, Any]:
    """What parts may ask for by the name of a field, besides the arguments of their spec."""
    init = make_init(model)
    return {
        'init': init,
        'logit_scale': init.logit_scale,
        'dtype': jnp.dtype(compute_dtype(model.dtype, platform)),
        'depth': model.depth,
        'vocab_size': padded_vocab(model.vocab_size, vocab_size),
        'num_ids': vocab_size,
        'num_labels': num_labels,
        'max_length': model.max_length,
    }


def _head(model: ConfigDict, num_labels: int, known: Mapping[str, Any]) -> Callable[..., nn.Module]:
    head = bind(HEADS, model.head, 'model.head', **known)
    if 'num_labels' in head.keywords and num_labels < 2:
        raise UserError(
            f'model.head={model.head!r} needs labelled data; data.source has {num_labels} labels'
        )
    return head


def kernel_name(model: ConfigDict, platform: str) -> str:
    """The kernels that `build_model` takes, for the log and `run.json`."""
    return kernel_names(build_layers(model, _known(model, 0, 0, platform), platform))


def init_params(model: Model, key: jax.Array) -> Any:
    """Initial parameters: a nested dict whose leaves carry their logical axes (boxed)."""
    # No parameter depends on the number of tokens or on unrolling: the smallest program will do.
    rolled = model.clone(make_backbone=partial(model.make_backbone, unroll=1))
    with sharding.inactive():
        return rolled.init(key, jnp.zeros((1, 1), jnp.int32), mutable=['params'])['params']


def apply(
    model: Model,
    params: Any,
    tokens: Int[Array, 'B L'],
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
) -> Array:
    """The model's outputs; dropout is on exactly when `dropout_key` is given."""
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, tokens, positions, segments, rngs=rngs)


def apply_with_losses(
    model: Model,
    params: Any,
    tokens: Int[Array, 'B L'],
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """`apply`, what layers add to the loss: name -> sum over layers, and what they report: name ->
    mean over layers (`layers/losses.py`).
    """
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    outputs, sown = model.apply(
        {'params': params}, tokens, positions, segments, rngs=rngs, mutable=[LOSSES, REPORTS]
    )
    return outputs, total_losses(sown), mean_reports(sown)


def apply_cached(
    model: Model,
    params: Any,
    cache: Any,
    tokens: Int[Array, 'B L'],
    cache_length: int,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
) -> tuple[Array, Any]:
    """One decoding step: outputs for `tokens`, which follow those in `cache` (None: the first)."""
    variables = {'params': params} if cache is None else {'params': params, 'cache': cache}
    outputs, updated = model.apply(
        variables, tokens, positions, segments, cache_length, mutable=['cache']
    )
    return outputs, updated['cache']


def compute_dtype(name: str, platform: str) -> str:
    """'auto' is bfloat16 on accelerators and float32 on CPU, where bfloat16 is not faster."""
    choices = ('auto', 'float32', 'bfloat16', 'float16')
    if name not in choices:
        raise unknown('model.dtype', name, choices)
    return ('float32' if platform == 'cpu' else 'bfloat16') if name == 'auto' else name


def padded_vocab(configured: int, tokenizer: int) -> int:
    """`model.vocab_size`, or the tokenizer's rounded up to 64 (matrix units, sharding)."""
    return configured or -(-tokenizer // 64) * 64


def _check_choices(model: ConfigDict) -> None:
    if model.remat not in REMAT:
        raise unknown('model.remat', model.remat, REMAT)
    if not 0 <= model.dropout < 1:
        raise UserError(f'model.dropout={model.dropout} must be in [0, 1)')
