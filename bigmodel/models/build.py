"""The slot tables, and `build_model`: from a resolved config to a linen module.

This is the one place where configs meet layers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.cross import CROSSES
from bigmodel.layers.feedforward import ACTIVATIONS
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.initializers import INITS, Parametrisation
from bigmodel.layers.inputs import INPUTS, Tokens
from bigmodel.layers.kernels import KERNELS, Choose, choose
from bigmodel.layers.masks import MASKS
from bigmodel.layers.matmuls import MATMULS
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS
from bigmodel.layers.prompts import PROMPTS
from bigmodel.layers.weights import WEIGHTS
from bigmodel.models.adapters import ADAPTERS
from bigmodel.models.ahead import AHEADS
from bigmodel.models.backbone import SHARE, Backbone
from bigmodel.models.encoder import Encoder, NoEncoder
from bigmodel.models.heads import HEADS, parts_of
from bigmodel.models.kept import check_param_dtype
from bigmodel.models.model import Model
from bigmodel.models.remat import policy_of
from bigmodel.models.stack import Layer, bind_positions, build_encoder, build_layers, kernel_names
from bigmodel.specs import bind, make, parse

SLOTS: dict[str, Mapping[str, Any]] = {
    'inputs': INPUTS,
    'prompt': PROMPTS,
    'position': POSITIONS,
    'mask': MASKS,
    'norm': NORMS,
    'ffn': FFNS,
    'mixer': MIXERS,
    'cross': CROSSES,
    'block': BLOCKS,
    'head': HEADS,
    'ahead': AHEADS,
    'adapter': ADAPTERS,
    'init': INITS,
    'kernel': KERNELS,
    'matmul': MATMULS,
    'activation': ACTIVATIONS,
    'weights': WEIGHTS,
}


def build_model(
    model: ConfigDict,
    vocab_size: int,
    num_labels: int,
    platform: str,
    choose: Choose = choose,
) -> Model:
    """Builds the model of a resolved `config.model`.

    `vocab_size` counts the ids of the tokenizer and of the task, `num_labels` is the data's (0:
    unlabelled); `choose` gives a layer its kernel. Raises UserError for any part or shape that
    cannot be, before anything is compiled.
    """
    if model.vocab_size and vocab_size > model.vocab_size:
        raise UserError(
            f'tokenizer and task have {vocab_size} tokens but model.vocab_size={model.vocab_size}; '
            f'set it to 0 or to at least {vocab_size}'
        )
    _check_choices(model)
    known = _known(model, vocab_size, num_labels, platform)
    layers, encoder = _all_layers(model, known, platform, choose)
    return Model(
        bind(INPUTS, model.inputs, 'model.inputs', width=model.width, **known),
        _backbone(model, layers, known, model.depth),
        _head(model, num_labels, known),
        partial(Encoder, _backbone(model, encoder, known, model.encoder_depth))
        if encoder
        else NoEncoder,
        _ahead(model, layers, known),
        make(ADAPTERS, model.adapter, 'model.adapter'),
        bind(PROMPTS, model.prompt, 'model.prompt', width=model.width, **known),
        model.param_dtype,
        make(MATMULS, model.matmul, 'model.matmul'),
    )


def _all_layers(
    model: ConfigDict, known: Mapping[str, Any], platform: str, choose: Choose
) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    of_encoder = {**known, 'init': make_init(model, model.encoder_depth)}
    return (
        build_layers(model, known, platform, choose),
        build_encoder(model, of_encoder, platform, choose),
    )


def _backbone(
    model: ConfigDict, layers: tuple[Layer, ...], known: Mapping[str, Any], depth: int
) -> Callable[..., Backbone]:
    repeats = depth // len(layers)
    return partial(
        Backbone,
        positions=bind_positions(model, layers, known),
        blocks=tuple(layer.make for layer in layers),
        make_embed_norm=bind(NORMS, model.embed_norm, 'model.embed_norm', axis='embed'),
        make_final_norm=bind(NORMS, model.final_norm, 'model.final_norm', axis='embed'),
        repeats=repeats,
        num_heads=model.num_heads,
        carries=dict(carried for layer in layers for carried in layer.carries.items()),
        share=model.share,
        dropout=model.dropout,
        remat=model.remat,
        unroll=min(model.unroll or (repeats if repeats <= 8 else 1), repeats),
    )


def _ahead(
    model: ConfigDict, layers: tuple[Layer, ...], known: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    norm = bind(NORMS, model.norm, 'model.norm', axis='embed')
    block = layers[-1].make
    ahead = bind(AHEADS, model.ahead, 'model.ahead', block=block, norm=norm, **known)
    if 'block' in ahead.keywords:
        why = f'model.ahead={model.ahead!r} predicts later tokens'
        if not hasattr(HEADS[parse(model.head).name], 'tied'):
            raise UserError(f"{why}: it needs model.head='lm', not {model.head!r}")
        if INPUTS[parse(model.inputs).name].key != Tokens.key:
            raise UserError(f"{why}: it needs model.inputs='tokens', not {model.inputs!r}")
        for layer in layers:
            if not layer.causal:
                raise UserError(f'{why}, which model.mask={layer.specs["mask"]!r} shows')
        if parse(model.prompt, 'model.prompt').name != 'none':
            raise UserError(
                f'{why}, but model.prompt={model.prompt!r} makes rows longer; choose one'
            )
        if layers[-1].carries:
            raise UserError(
                f'model.ahead={model.ahead!r} has a layer like the last one, but '
                f'model.mixer={layers[-1].specs["mixer"]!r} reads earlier layers'
            )
    return ahead


def make_init(model: ConfigDict, depth: int = 0) -> Parametrisation:
    """The initialisation that `model.init` names, of `depth` layers (0: the model's own)."""
    depth = depth or model.depth
    return make(INITS, model.init, 'model.init', depth=depth, width=model.width)


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
    if num_labels < 2 and any(hasattr(part, 'num_labels') for part in parts_of(head())):
        raise UserError(
            f'model.head={model.head!r} needs labelled data; data.source has {num_labels} labels'
        )
    return head


def kernel_name(model: ConfigDict, platform: str, choose: Choose = choose) -> str:
    """The kernels that `build_model` takes, for the log and `run.json`."""
    layers, encoder = _all_layers(model, _known(model, 0, 0, platform), platform, choose)
    return kernel_names(layers + encoder)


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
    policy_of(model.remat)
    check_param_dtype(model.param_dtype)
    if model.share not in SHARE:
        raise unknown('model.share', model.share, SHARE)
    if not 0 <= model.dropout < 1:
        raise UserError(f'model.dropout={model.dropout} must be in [0, 1)')
