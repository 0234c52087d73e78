"""The costs of a step by a model of it, where nothing can be compiled: GPUs, and quick searches.

Parameters, optimizer state and what the backward pass keeps are exact: read from placements and
from a trace of the gradient of one device's microbatch. FLOPs and bytes are those of all matrix
products of that trace, recomputation included, and of the optimizer's pass over its state; what is
computed between them is taken to be fused with them. Collectives are those that the placements ask
for: weights split over the batch's axes are gathered for the forward and the backward pass, their
gradients scattered, others summed; each half of a layer that is split over `tensor` is summed once
forward, once backward, and once more where it is recomputed, as a scatter and a gather where
`sequence` splits what lies between. Of rows that are split, `ring` sends keys and values on, and
their gradients with them. Of a pipeline, the head is taken to wait for the last stage as layers do.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.config import ConfigDict
from bigmodel.data.pipeline import Data
from bigmodel.models.build import compute_dtype
from bigmodel.models.heads import chunk_of
from bigmodel.models.remat import policy_of
from bigmodel.planning.collectives import Collective, sent
from bigmodel.planning.compiled import optimizer_bytes, shard_bytes
from bigmodel.planning.costs import Costs, Memory, seconds_of
from bigmodel.planning.residuals import Traced, trace
from bigmodel.planning.topology import Topology
from bigmodel.specs import parse
from bigmodel.training.fit import check_stages
from bigmodel.training.outline import Outline, outline


@dataclasses.dataclass(frozen=True)
class Imagined:
    """A device of a mesh that only its shape is asked of, and which host and slice it is of."""

    id: int
    platform: str
    process_index: int = 0
    slice_index: int = 0
    device_kind: str = 'imagined'


def analytic_costs(
    config: ConfigDict, topology: Topology, traces: dict[str, Traced] | None = None
) -> tuple[Outline, Costs]:
    """The outline of a resolved config on these chips, and what its step costs by the model.

    `traces` keeps what was traced, by config of one device, for others of the same.
    """
    plan = outline(config, chips=_imagined(topology))
    one = _of_one_device(plan)
    traces = {} if traces is None else traces
    plain = one.copy_and_resolve_references()
    plain.model.remat = 'none'
    return plan, costs_of(plan, topology, _traced(one, traces), _traced(plain, traces))


def analytic_memory(
    config: ConfigDict, chips: Sequence[Any], data: Data, traces: dict[str, Traced]
) -> Memory:
    """What a resolved config takes of one of these chips by the model, `data` being the run's."""
    plan = outline(config, data, [_alike(i, chip) for i, chip in enumerate(chips)])
    one = _of_one_device(plan)
    plain = one.copy_and_resolve_references()
    plain.model.remat = 'none'
    traced = [_traced(c, traces, data) for c in (one, plain)]
    state = shard_bytes(plan.abstract.params), *optimizer_bytes(plan)
    return _memory(plan, *traced, state, 1)


def _imagined(topology: Topology) -> list[Imagined]:
    """The devices of a topology; a node of GPUs is a host, and a slice for axes between them."""
    numbers = range(topology.num_devices)
    if topology.is_tpu:
        return [Imagined(i, 'tpu') for i in numbers]
    nodes = [i // topology.dims[0] for i in numbers]
    return [Imagined(i, 'gpu', node, node) for i, node in enumerate(nodes)]


def _alike(number: int, chip: Any) -> Imagined:
    host = chip.process_index
    return Imagined(number, chip.platform, host, getattr(chip, 'slice_index', host))


def _traced(one: ConfigDict, traces: dict[str, Traced], data: Data | None = None) -> Traced:
    key = one.to_json_best_effort()
    if key not in traces:
        traces[key] = trace(outline(one, data, [Imagined(0, 'cpu')]), data)
    return traces[key]


def costs_of(plan: Outline, topology: Topology, traced: Traced, plain: Traced) -> Costs:
    """What the step of an outline costs by the model; `traced` is of one device's part of it, and
    `plain` of the same when nothing is recomputed.
    """
    chip, tensor = topology.chip, plan.sharding.mesh.shape['tensor']
    accumulate, parts = plan.config.accumulate, plan.sharding.ways('inner_length')
    flops = int8_flops = num_bytes = seconds = 0.0
    for product in traced.products:
        # Queries of a part of a row meet the keys of all parts.
        share = (parts if product.is_attention else 1) / tensor
        own, moved = product.flops * share, product.num_bytes * share
        if product.is_attention and plan.kernel != 'reference':
            moved = 0.0  # a fused kernel keeps them on the chip
        # Of a pipeline, whose stages compute while they idle too.
        times = product.times * accumulate * _ticks(plan)
        int8 = own if product.is_int8 else 0.0
        flops, int8_flops = flops + own * times, int8_flops + int8 * times
        num_bytes += moved * times
        busy = seconds_of(own, int8, chip), moved / chip.bandwidth
        seconds += max(busy) * chip.cores * times
    state = shard_bytes(plan.abstract.params), *optimizer_bytes(plan)
    update = 2 * sum(state) + state[0]  # reads and writes, and the gradient
    cores = chip.cores
    return Costs(
        _memory(plan, traced, plain, state, cores),
        cores * flops,
        cores * (num_bytes + update),
        seconds + cores * update / chip.bandwidth,
        _collectives(plan),
        'analytic',
        int8_flops=cores * int8_flops,
    )


def _of_one_device(plan: Outline) -> ConfigDict:
    """With what one device has of a microbatch, and a kernel that can be traced."""
    config = plan.config.copy_and_resolve_references()
    ways = plan.sharding.batch_ways * config.accumulate
    config.data.batch_size //= ways
    config.data.seq_len //= plan.sharding.ways('inner_length')
    config.accumulate = 1
    config.sharding.mesh, config.sharding.rules = 'data=1', 'dp'
    config.sharding.pipeline = 'gpipe'
    config.model.dtype = compute_dtype(plan.config.model.dtype, plan.platform)
    config.model.unroll = 1
    if plan.kernel.split()[0] in ('cudnn', 'fused', 'splash', 'ring') or '(' in plan.kernel:
        config.model.kernel = 'blockwise'
    return config


def _memory(
    plan: Outline, traced: Traced, plain: Traced, state: tuple[int, int, int], cores: int
) -> Memory:
    config = plan.config
    ticks = _ticks(plan)
    kept, offloaded = (_kept(plan, x) * ticks for x in (traced.kept, traced.offloaded))
    # What is recomputed of one layer is there while its backward pass runs.
    recomputes = policy_of(config.model.remat) is not None
    again = _kept(plan, plain.kept) / config.model.depth if recomputes else 0.0
    tokens = _tokens(plan)
    own_ids = config.model.vocab_size / plan.sharding.mesh.shape['tensor']
    chunk = chunk_of(config.model.head)
    # Float32, and their gradient as the products of the head take it.
    logits = (4 + 2) * (min(tokens, chunk) if chunk else tokens) * own_ids
    # The gradient of the head's weight, added up in float32.
    logits += 4 * config.model.width * own_ids if chunk else 0
    gathered = 2 * max(_whole_layer(plan), default=0.0)
    # Sums over microbatches are float32, gradients of one are what the parameters are.
    parameters, optimizer, moments = state
    gradients = parameters if config.accumulate == 1 else _float32_bytes(plan.abstract.params)
    # All moments are on the chip while it updates, when what layers kept is not any more.
    rest = max(gradients + again + logits + gathered, gradients + moments - kept)
    parts = (parameters, optimizer, kept, rest, offloaded + moments)
    return Memory(*(cores * size for size in parts))


def _float32_bytes(params: Any) -> float:
    float32 = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), params
    )
    return float(shard_bytes(float32))


def _kept(plan: Outline, shapes: Sequence[jax.ShapeDtypeStruct]) -> float:
    """The residual stream is whole on every chip of `tensor`, unless rows are split over them;
    heads and hidden units are split. Logits count elsewhere.
    """
    model, tensor = plan.config.model, plan.sharding.mesh.shape['tensor']
    between = plan.sharding.ways('length') / plan.sharding.ways('inner_length')
    sizes = (
        math.prod(x.shape)
        * x.dtype.itemsize
        / (between if x.shape[-1:] == (model.width,) else tensor)
        for x in shapes
        if x.shape[-1:] != (model.vocab_size,)
    )
    return sum(sizes, 0.0)


def _whole_layer(plan: Outline) -> list[float]:
    """Bytes of each parameter of one layer that are gathered to be used, in bfloat16."""
    return [2.0 * whole for _, _, whole, *_ in _weights(plan)]


def _weights(plan: Outline) -> list[tuple[tuple[str, ...], tuple[str, ...], float, int, int]]:
    """Of each parameter: axes of the batch that split it, those that do not, numbers of one layer
    that a chip uses, how many layers it has, and how often it uses one of them in a pass.
    """
    mesh = plan.sharding.mesh.shape
    sharding, stages = plan.sharding, check_stages(plan.config, plan.sharding)
    rows = (*sharding.mesh_axes('batch'), *sharding.mesh_axes('inner_length'))
    found = []
    boxes = jax.tree.leaves(plan.boxed, is_leaf=lambda x: hasattr(x, 'names'))
    for leaf, box in zip(jax.tree.leaves(plan.abstract.params), boxes, strict=True):
        stacked = box.names[:1] == ('layers',)
        # Of a pipeline's stages each has its own layers, and of all else its own rows.
        batch = [a for a in rows if not stacked or a != 'pipeline']
        axes = {a for entry in leaf.sharding.spec for a in _names(entry)}
        others = math.prod(mesh[a] for a in axes - {*batch, 'pipeline'})
        layers = leaf.shape[0] if stacked else 1
        split = tuple(a for a in batch if a in axes)
        whole = tuple(a for a in batch if a not in axes)
        numbers = math.prod(leaf.shape) / layers / others
        ticks = stages.ticks // stages.repeats if stages and stacked else 1
        own = layers // mesh['pipeline'] if stacked else 1
        found.append((split, whole, numbers, own, ticks))
    return found


def _tokens(plan: Outline) -> float:
    """Of a device in a microbatch, inside of branches."""
    ways = plan.sharding.batch_ways * plan.sharding.ways('inner_length')
    return plan.tokens_per_step / ways / plan.config.accumulate


def _ticks(plan: Outline) -> float:
    """How long the layers run, over how long they would if no stage of a pipeline idled."""
    stages = check_stages(plan.config, plan.sharding)
    return stages.ticks / stages.turns if stages else 1.0


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _collectives(plan: Outline) -> list[Collective]:
    mesh, config = plan.sharding.mesh.shape, plan.config
    found = []

    def add(
        kind: str, axes: tuple[str, ...], size: float | int, times: float | int, overlaps: bool
    ) -> None:
        ways = math.prod(mesh[a] for a in axes)
        if ways > 1:
            each = sent(kind, size, ways)
            found.append(Collective(kind, axes, ways, each, times, overlaps))

    for split, whole, numbers, layers, ticks in _weights(plan):
        times = layers * config.accumulate
        add('all-gather', split, 2 * numbers, 2 * times * ticks, True)
        add('reduce-scatter', split, 2 * numbers, times * ticks, True)
        add('all-reduce', whole, 2 * numbers / math.prod(mesh[a] for a in split), times, True)
    stages = check_stages(config, plan.sharding)
    if stages:
        # A microbatch enters, moves on and leaves, and so does its gradient.
        rows = plan.tokens_per_step / plan.sharding.batch_ways / config.accumulate
        size = 2 * rows * config.model.width * stages.stages / stages.microbatches
        size /= plan.sharding.ways('length')
        moves = 6 * stages.ticks * config.accumulate
        found.append(Collective('collective-permute', ('pipeline',), 2, size, moves, False))
    again = parse(config.model.remat).name in ('full', 'save', 'offload')
    layers, tokens = config.model.depth * config.accumulate, _tokens(plan)
    if mesh['tensor'] > 1:
        size, sums = 2 * tokens * config.model.width, (4 + 2 * again) * layers
        splits = plan.sharding.ways('length') > plan.sharding.ways('inner_length')
        for kind in ('reduce-scatter', 'all-gather') if splits else ('all-reduce',):
            add(kind, ('tensor',), size, sums, False)
    ring = plan.sharding.mesh_axes('inner_length')
    if ring:
        ways, model = plan.sharding.ways('inner_length'), config.model
        numbers = 2 * tokens * model.num_kv_heads * model.head_dim / mesh['tensor']
        # Keys and values in bfloat16; their gradients go with them in float32.
        for size, passes in ((2 * numbers, 1 + again), (6 * numbers, 1)):
            add('collective-permute', ring, size, ways * passes * layers, True)
    return found
