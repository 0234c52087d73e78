"""Which mesh axes each logical axis is split over: presets, which are joined with '_'."""

from collections.abc import Mapping

from bigmodel.errors import UserError, unknown

# From the slowest links to the fastest: neighbours on the last axis are neighbouring devices.
MESH_AXES = ('pipeline', 'data', 'fsdp', 'expert', 'context', 'tensor')

Rules = Mapping[str, tuple[str, ...] | str | None]

# Weights: layers, embed (model width), heads, kv_heads, head_dim, mlp, experts, vocab, positions,
# labels, latent (what keys and values are made from), rank (of an adapter), blocks (of numbers that
# share a scale), taps (of a convolution), gates and state (of a recurrence), pixels (of a patch),
# choices (of a router).
# Activations: batch, length (between the branches of blocks), inner_length (inside of branches and
# at the logits), features (model width of an activation).
# 'gradients/x' and 'moments/x' are axis x of what has the shape of a weight: its gradient, and what
# the optimizer keeps of it.
LENGTHS = ('length', 'inner_length')
_REPLICATED = dict.fromkeys(
    [
        'layers',
        'embed',
        'heads',
        'kv_heads',
        'head_dim',
        'mlp',
        'experts',
        'vocab',
        'positions',
        'labels',
        'latent',
        'rank',
        'blocks',
        'taps',
        'gates',
        'state',
        'pixels',
        'choices',
        'features',
        *LENGTHS,
    ]
)
WEIGHTS = tuple(axis for axis in _REPLICATED if axis not in ('features', *LENGTHS))
_TENSOR = {'heads': 'tensor', 'kv_heads': 'tensor', 'mlp': 'tensor', 'vocab': 'tensor'}
_MOMENTS = {'batch': 'fsdp', 'moments/embed': 'fsdp'}
# What each adds to data parallelism.
PRESETS: dict[str, dict[str, str]] = {
    'dp': {'batch': 'data'},
    # Each stage has some of the layers, through which microbatches pass (pipelines.py). Outside of
    # layers, at the inputs and the head, stages have rows of their own instead.
    'pipeline': {'layers': 'pipeline', 'batch': 'pipeline'},
    # Rajbhandari et al. 2019, ZeRO. 1: each device keeps and updates its part of the optimizer's
    # state. 2: and of the gradients, also while microbatches are summed. 3: and of the weights.
    'zero1': _MOMENTS,
    'zero2': _MOMENTS | {'gradients/embed': 'fsdp'},
    'fsdp': {'batch': 'fsdp', 'embed': 'fsdp'},
    # Each device has some of the experts, to which tokens travel (Lepikhin et al. 2020, GShard).
    'expert': {'batch': 'expert', 'experts': 'expert'},
    # Each device has a part of every row (Liu et al. 2023, ring attention: model.kernel='ring').
    'context': {'length': 'context', 'inner_length': 'context'},
    # Heads and hidden units are split, the batch is not (Shoeybi et al. 2019, Megatron).
    'tensor': _TENSOR,
    # Also what lies between them, by length (Korthikanti et al. 2022).
    'sequence': _TENSOR | {'length': 'tensor'},
}
_STAGES = ({'zero1', 'zero2', 'fsdp'}, {'tensor', 'sequence'})


def rules_of(name: str) -> Rules:
    """The rules of presets joined by '_': 'fsdp_tensor'.

    Raises UserError for an unknown preset, and for those that do not go together.
    """
    parts = name.split('_')
    for part in parts:
        if part not in PRESETS:
            raise unknown('sharding.rules', part, PRESETS)
    for stages in _STAGES:
        both = sorted(stages & set(parts))
        if len(both) > 1:
            raise UserError(
                f'sharding.rules={name!r}: {both[0]} and {both[1]} place the same arrays; '
                f'choose one'
            )
    ordered = '_'.join(part for part in PRESETS if part in parts and (part != 'dp' or name == 'dp'))
    if name != ordered:
        raise UserError(f'sharding.rules={name!r}: write {ordered!r}')
    joined: dict[str, tuple[str, ...] | str | None] = dict(_REPLICATED)
    for part in (PRESETS['dp'], *(PRESETS[part] for part in parts)):
        for axis, mesh_axis in part.items():
            before = joined.get(axis)
            named = {mesh_axis, *((before,) if isinstance(before, str) else before or ())}
            names = tuple(m for m in MESH_AXES if m in named)
            joined[axis] = names if len(names) > 1 else names[0]
    return joined
