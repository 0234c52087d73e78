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
from jaxtyping import Array, Bool, Int

from bigmodel import sharding
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.cross import CROSSES
from bigmodel.layers.feedforward import ACTIVATIONS
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.initializers import INITS, Parametrisation
from bigmodel.layers.inputs import INPUTS, Inputs, Tokens
from bigmodel.layers.kernels import KERNELS, Choose, choose
from bigmodel.layers.losses import LOSSES, REPORTS, mean_reports, total_losses
from bigmodel.layers.masks import MASKS
from bigmodel.layers.matmuls import MATMULS, Full, using
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS
from bigmodel.layers.prompts import PROMPTS, NoPrompt
from bigmodel.layers.weights import WEIGHTS
from bigmodel.models.adapters import ADAPTERS, Adapter
from bigmodel.models.ahead import AHEADS
from bigmodel.models.backbone import SHARE, Backbone
from bigmodel.models.deferred import whole
from bigmodel.models.encoder import Encoder, NoEncoder, Source
from bigmodel.models.heads import HEADS, Outputs, parts_of
from bigmodel.models.kept import check_param_dtype, kept_as
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


class Model(nn.Module):
    """Inputs, a backbone and a head; and an encoder, which embeds its source with the same inputs.

    `make_encoder` constructs a backbone, or is NoEncoder.
    """

    make_inputs: Callable[..., Inputs]
    make_backbone: Callable[..., Backbone]
    make_head: Callable[..., nn.Module]
    make_encoder: Callable[..., nn.Module]
    make_ahead: Callable[..., nn.Module]
    adapter: Adapter = Adapter()
    make_prompt: Callable[..., NoPrompt] = NoPrompt
    param_dtype: str = 'float32'
    matmul: Full = Full()

    def setup(self) -> None:
        self.inputs = self.make_inputs()
        self.prompt = self.make_prompt()
        self.encoder = self.make_encoder()
        self.backbone = self.make_backbone()
        self.head = self.make_head()
        self.ahead = self.make_ahead()

    def __call__(
        self,
        inputs: Array,
        positions: Int[Array, 'B L'] | None = None,
        segments: Int[Array, 'B L'] | None = None,
        cache_length: int | None = None,
        source: Source | None = None,
        prefix: Bool[Array, 'B L'] | None = None,
        hidden: Bool[Array, 'B R C'] | None = None,
    ) -> Outputs:
        """The head's outputs: logits_BLV of an LM, logits_BC of a classifier; of `joint` both."""
        with using(self.matmul):
            return self._outputs(inputs, positions, segments, cache_length, source, prefix, hidden)

    def _outputs(
        self,
        inputs: Array,
        positions: Int[Array, 'B L'] | None,
        segments: Int[Array, 'B L'] | None,
        cache_length: int | None,
        source: Source | None,
        prefix: Bool[Array, 'B L'] | None,
        hidden: Bool[Array, 'B R C'] | None,
    ) -> Outputs:
        memory = self.encoder(self.inputs, source)
        x_BLD, positions = self.inputs(inputs, positions, hidden)
        length = x_BLD.shape[1]
        row_BPD, *places, prefix = self.prompt(x_BLD, positions, segments, prefix)
        room = None if cache_length is None else cache_length + self.prompt.length
        context = self.backbone.context(row_BPD.shape[:2], *places, room, memory, prefix)
        x_BLD = self.backbone(row_BPD, context)[:, -length:]
        unembed = partial(self.head, inputs=self.inputs, segments_BL=segments)
        self.ahead(x_BLD, inputs, context, self.inputs, unembed)
        return unembed(x_BLD)

    @nn.nowrap
    def example(self, length: int = 1) -> tuple[Array, Source | None]:
        """Inputs of one row of `length` tokens, and a source where there is an encoder."""
        inputs = self.make_inputs().example(length)
        return inputs, self.make_encoder().example(inputs)


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


def init_params(model: Model, key: jax.Array) -> Any:
    """Initial parameters: a nested dict whose leaves carry their logical axes (boxed)."""
    # No parameter depends on the number of tokens or on unrolling: the smallest program will do.
    once = {
        name: partial(getattr(model, name), unroll=1) for name in ('make_backbone', 'make_encoder')
    }
    inputs, source = model.example()
    with sharding.inactive():
        drawn = model.clone(**once).init(key, inputs, source=source, mutable=['params'])['params']
        drawn = kept_as(model.param_dtype, drawn)
        return model.adapter.init(drawn, jax.random.fold_in(key, 1))


def apply(
    model: Model,
    params: Any,
    inputs: Array,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
    hidden: Bool[Array, 'B R C'] | None = None,
) -> Outputs:
    """The model's outputs; dropout is on exactly when `dropout_key` is given."""
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    variables = {'params': model.adapter.merge(params, dropout_key)}
    rest = {'source': source, 'prefix': prefix, 'hidden': hidden, 'rngs': rngs}
    return model.apply(variables, inputs, positions, segments, **rest)


def apply_with_losses(
    model: Model,
    params: Any,
    inputs: Array,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
    hidden: Bool[Array, 'B R C'] | None = None,
) -> tuple[Outputs, dict[str, Array], dict[str, Array]]:
    """`apply`, what layers add to the loss: name -> sum over layers, and what they report: name ->
    mean over layers (`layers/losses.py`).
    """
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    variables = {'params': model.adapter.merge(params, dropout_key)}
    rest = {'source': source, 'prefix': prefix, 'hidden': hidden, 'rngs': rngs}
    rest |= {'mutable': [LOSSES, REPORTS]}
    outputs, sown = model.apply(variables, inputs, positions, segments, **rest)
    return outputs, total_losses(sown), mean_reports(sown)


def apply_cached(
    model: Model,
    params: Any,
    cache: Any,
    tokens: Int[Array, 'B L'],
    cache_length: int,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
) -> tuple[Array, Any]:
    """One decoding step: outputs for `tokens`, which follow those in `cache` (None: the first).

    The first step reads the `source`, if there is an encoder; later ones keep what it made of it.
    """
    variables = {'params': model.adapter.merge(params)}
    variables |= {} if cache is None else {'cache': cache}
    rest = (cache_length, source, prefix)
    with sharding.whole_rows():
        outputs, updated = model.apply(
            variables, tokens, positions, segments, *rest, mutable=['cache']
        )
    return whole(outputs), updated['cache']


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
