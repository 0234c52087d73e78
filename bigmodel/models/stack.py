"""The layers of a model: which parts each is made of, checked against each other and bound."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.cross import CROSSES
from bigmodel.layers.feedforward import FeedForward
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.kernel import Request
from bigmodel.layers.kernels import Choose
from bigmodel.layers.masks import MASKS, Full, Mask
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS, Position
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import Softmax
from bigmodel.specs import bind, make, parse

LAYER_SLOTS = ('mask', 'mixer', 'cross', 'position', 'ffn', 'block', 'norm')


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the pattern: its specs, its block's constructor and its attention kernel."""

    specs: Mapping[str, str]
    make: Callable[..., nn.Module]
    kernel: str  # '' for a mixer that has none
    cross_kernel: str  # '' without cross-attention
    causal: bool  # whether its mask is
    carries: Mapping[str, tuple[int, ...]]  # what its mixer hands to later layers


def layer_specs(model: ConfigDict) -> tuple[dict[str, str], ...]:
    """The slots of each layer of the pattern, as spec strings.

    An entry of `model.pattern` is a mask, or `layer(slot="spec", ...)` with what differs from the
    model's own slots.
    """
    return _specs(model, 'pattern', {})


def encoder_specs(model: ConfigDict) -> tuple[dict[str, str], ...]:
    """`layer_specs` of the encoder, whose layers see the whole source; () without one."""
    if not model.encoder_depth:
        return ()
    return _specs(model, 'encoder_pattern', {'mask': 'full', 'cross': ''})


def _specs(model: ConfigDict, pattern: str, own: dict[str, str]) -> tuple[dict[str, str], ...]:
    shared = {slot: model[slot] for slot in LAYER_SLOTS} | own
    key = f'model.{pattern}'
    return tuple(shared | _changes(entry, key) for entry in model[pattern]) or (shared,)


def _changes(entry: str, key: str) -> dict[str, str]:
    spec = parse(entry, key)
    if spec.name != 'layer':
        if spec.name not in MASKS:
            raise unknown(f'{key} entry (a mask, or layer(...))', spec.name, MASKS)
        return {'mask': entry}
    if spec.args:
        raise UserError(f'{key}: name the slots of {entry!r}: layer(mixer="attention")')
    for slot, value in spec.kwargs.items():
        if slot not in LAYER_SLOTS:
            raise unknown(f'slot of layer(...) in {key}', slot, LAYER_SLOTS)
        if not isinstance(value, str):
            raise UserError(f'{key}: layer({slot}=...) takes a spec string, got {value!r}')
    return dict(spec.kwargs)


def build_layers(
    model: ConfigDict, known: Mapping[str, Any], platform: str, choose: Choose
) -> tuple[Layer, ...]:
    """The layers of the pattern; `known` is what parts may be given besides their specs.

    Raises UserError for a part that does not exist, and for parts that cannot work together.
    """
    layers = tuple(_layer(model, specs, known, platform, choose) for specs in layer_specs(model))
    if not model.encoder_depth and any(layer.specs['cross'] for layer in layers):
        raise UserError(
            f'model.cross={model.cross!r} reads an encoder, but model.encoder_depth=0; set it, or '
            f"set model.cross to ''"
        )
    return _checked(model, layers, 'pattern', 'depth')


def build_encoder(
    model: ConfigDict, known: Mapping[str, Any], platform: str, choose: Choose
) -> tuple[Layer, ...]:
    """`build_layers` of the encoder; () without one."""
    if model.encoder_pattern and not model.encoder_depth:
        raise UserError(
            f'model.encoder_pattern={tuple(model.encoder_pattern)} is of an encoder, but '
            f'model.encoder_depth=0; set it, or leave the pattern out'
        )
    try:
        layers = tuple(
            _layer(model, specs, known, platform, choose) for specs in encoder_specs(model)
        )
    except UserError as e:
        raise UserError(f'the encoder, whose layers model.encoder_pattern changes: {e}') from e
    for cross in (layer.specs['cross'] for layer in layers if layer.specs['cross']):
        raise UserError(
            f'model.encoder_pattern has cross={cross!r}, but an encoder has no other one to read; '
            f'leave it out'
        )
    if layers and not any(specs['cross'] for specs in layer_specs(model)):
        raise UserError(
            f'model.encoder_depth={model.encoder_depth}, but no layer of the decoder reads the '
            f"encoder; set model.cross='attention', or model.encoder_depth=0"
        )
    return _checked(model, layers, 'encoder_pattern', 'encoder_depth') if layers else ()


def _checked(
    model: ConfigDict, layers: tuple[Layer, ...], pattern: str, depth: str
) -> tuple[Layer, ...]:
    if model[depth] % len(layers):
        raise UserError(
            f'model.{pattern} has {len(layers)} layers, which does not divide model.{depth}='
            f'{model[depth]}'
        )
    _check_position_is_used(model, layers, pattern)
    return layers


def bind_positions(
    model: ConfigDict, layers: tuple[Layer, ...], known: Mapping[str, Any]
) -> dict[str, Callable[..., Position]]:
    """The encodings of these layers by their spec, the model's own first."""
    found = {}
    for spec in dict.fromkeys([model.position, *(layer.specs['position'] for layer in layers)]):
        causal = all(layer.causal for layer in layers if layer.specs['position'] == spec)
        found[spec] = bind(POSITIONS, spec, 'model.position', bidirectional=not causal, **known)
    return found


def _layer(
    model: ConfigDict,
    specs: Mapping[str, str],
    known: Mapping[str, Any],
    platform: str,
    choose: Choose,
) -> Layer:
    mask = make(MASKS, specs['mask'], 'model.mask')
    position = make(
        POSITIONS, specs['position'], 'model.position', bidirectional=not mask.causal, **known
    )
    _refuse(position.refusal(model.head_dim), 'model.position', specs['position'])
    mixer = bind(
        MIXERS,
        specs['mixer'],
        'model.mixer',
        **_attention_fields(model),
        mask=mask,
        position=position,
        position_key=specs['position'],
        **known,
    )
    if 'mask' not in mixer.keywords and specs['mask'] != 'causal':
        raise UserError(
            f'model.mixer={specs["mixer"]!r} reads from left to right and takes no mask, but '
            f"model.mask={specs['mask']!r}; set it to 'causal'"
        )
    kernel = ''
    if 'kernel' in mixer.keywords:
        dropout = mixer.keywords.get('dropout', 0.0)
        given = overrides(type(position), 'contextual_bias')
        if given and not mixer().contextual:
            raise UserError(
                f'model.position={specs["position"]!r} needs queries and keys, which '
                f'model.mixer={specs["mixer"]!r} does not show it; use attention'
            )
        has_bias = given or overrides(type(position), 'bias')
        weighting = getattr(mixer(), 'weighting', Softmax)()
        dtype = known['dtype'].name
        request = Request(
            mask, has_bias, dropout, platform, dtype, weighting, given, mixer().kernel_dim
        )
        kernel, part = choose(model.kernel, request)
        mixer = partial(mixer, kernel=part)
    _refuse(mixer().refusal(), 'model.mixer', specs['mixer'])
    mixers, cross_kernel = {'mixer': mixer}, ''
    if specs['cross']:
        cross_kernel, mixers['cross'] = _cross(model, specs['cross'], known, platform, choose)
    ffn = bind(FFNS, specs['ffn'], 'model.ffn', dropout=model.dropout, **known)
    _refuse(ffn().refusal(), 'model.ffn', specs['ffn'])
    _check_mask(specs, mask, position, ffn())
    norm = bind(NORMS, specs['norm'], 'model.norm', axis='embed')
    block = bind(BLOCKS, specs['block'], 'model.block', mixers=mixers, ffn=ffn, norm=norm, **known)
    return Layer(specs, block, kernel, cross_kernel, mask.causal, mixer().carries())


def _attention_fields(model: ConfigDict) -> dict[str, Any]:
    return {
        'num_heads': model.num_heads,
        'num_kv_heads': model.num_kv_heads,
        'head_dim': model.head_dim,
        'kernel': Reference(),  # until one is chosen
        'output_dropout': model.dropout,
    }


def _cross(
    model: ConfigDict, spec: str, known: Mapping[str, Any], platform: str, choose: Choose
) -> tuple[str, Callable[..., nn.Module]]:
    cross = bind(
        CROSSES,
        spec,
        'model.cross',
        **_attention_fields(model),
        mask=Full(),
        position=Position(),
        position_key='',
        **known,
    )
    _refuse(cross().refusal(), 'model.cross', spec)
    dropout = cross.keywords.get('dropout', 0.0)
    dtype, weighting = known['dtype'].name, cross().weighting()
    request = Request(
        Full(), False, dropout, platform, dtype, weighting, head_dim=cross().kernel_dim
    )
    kernel, part = choose(model.kernel, request)
    return kernel, partial(cross, kernel=part)


def _check_mask(specs: Mapping[str, str], mask: Mask, position: Position, ffn: FeedForward) -> None:
    """Parts that are for a causal mask only, or for no causal one."""
    if position.for_causal and not mask.causal:
        raise UserError(
            f'model.position={specs["position"]!r} fades with the distance to the past and grows '
            f'with that to the future, which model.mask={specs["mask"]!r} shows; '
            f"set model.mask='causal', or model.position='rope'"
        )
    if mask.causal and not ffn.causal:
        raise UserError(
            f'model.ffn={specs["ffn"]!r} lets later tokens change earlier ones, which '
            f'model.mask={specs["mask"]!r} forbids; '
            f"set model.ffn to 'moe' or 'switch', or model.mask='full'"
        )


def overrides(position: type[Position], hook: str) -> bool:
    """Whether an encoding does something in one of its hooks."""
    return getattr(position, hook) is not getattr(Position, hook)


def kernel_names(layers: tuple[Layer, ...]) -> str:
    """The kernels of the layers, for the log and `run.json`."""
    names = {name for layer in layers for name in (layer.kernel, layer.cross_kernel)}
    return '+'.join(sorted(names - {''})) or 'none'


def _check_position_is_used(model: ConfigDict, layers: tuple[Layer, ...], pattern: str) -> None:
    for spec in dict.fromkeys([model.position, *(layer.specs['position'] for layer in layers)]):
        position = POSITIONS[parse(spec).name]
        if overrides(position, 'embed'):
            if spec != model.position:
                raise UserError(
                    f'model.{pattern}: position={spec!r} is added to the embeddings, which all '
                    f'layers share; set model.position'
                )
            continue
        users = [layer for layer in layers if layer.specs['position'] == spec]
        takes = [layer for layer in users if layer.kernel]
        if users and not takes and position is not Position:
            raise UserError(
                f'model.position={spec!r} acts inside attention, and '
                f'model.mixer={users[0].specs["mixer"]!r} has none; '
                f"set model.position to 'none', 'sinusoidal' or 'learned'"
            )


def _refuse(reason: str, slot: str, spec: str) -> None:
    if reason:
        raise UserError(f'{slot}={spec!r} {reason}')
