"""The costs of a step by a model of it, where nothing can be compiled: GPUs, and quick searches.

Parameters, optimizer state and what the backward pass keeps are exact: read from placements and
from a trace of the gradient of one device's microbatch. FLOPs and bytes are those of all matrix
products of that trace, recomputation included, and of the optimizer's pass over its state; what is
computed between them is taken to be fused with them. Collectives are those that the placements ask
for: weights split over the batch's axes are gathered for the forward and the backward pass, their
gradients scattered, others summed; each half of a layer that is split over `tensor` is summed once
forward, once backward, and once more where it is recomputed. Of a pipeline, the head is taken to
wait for the last stage as layers do.
"""

import dataclasses
import math
from typing import Any

import jax

from bigmodel.config import ConfigDict
from bigmodel.models.model import compute_dtype
from bigmodel.planning.collectives import Collective, sent
from bigmodel.planning.compiled import shard_bytes
from bigmodel.planning.costs import Costs, Memory
from bigmodel.planning.residuals import Traced, trace
from bigmodel.planning.topology import Topology
from bigmodel.training.fit import check_stages
from bigmodel.training.setup import Outline, outline


@dataclasses.dataclass(frozen=True)
class Imagined:
    """A device of a mesh that only its shape is asked of."""

    id: int
    platform: str
    process_index: int = 0
    device_kind: str = 'imagined'


def analytic_costs(
    config: ConfigDict, topology: Topology, traces: dict[str, Traced] | None = None
) -> tuple[Outline, Costs]:
    """The outline of a resolved config on these chips, and what its step costs by the model.

    `traces` keeps what was traced, by config of one device, for others of the same.
    """
    platform = 'tpu' if topology.is_tpu else 'gpu'
    plan = outline(config, chips=[Imagined(i, platform) for i in range(topology.num_devices)])
    one = _of_one_device(plan)
    traces = {} if traces is None else traces
    plain = one.copy_and_resolve_references()
    plain.model.remat = 'none'
    return plan, costs_of(plan, topology, _traced(one, traces), _traced(plain, traces))


def _traced(one: ConfigDict, traces: dict[str, Traced]) -> Traced:
    key = one.to_json_best_effort()
    if key not in traces:
        traces[key] = trace(outline(one, chips=[Imagined(0, 'cpu')]))
    return traces[key]


def costs_of(plan: Outline, topology: Topology, traced: Traced, plain: Traced) -> Costs:
    """What the step of an outline costs by the model; `traced` is of one device's part of it, and
    `plain` of the same when nothing is recomputed.
    """
    chip, tensor = topology.chip, plan.sharding.mesh.shape['tensor']
    accumulate = plan.config.accumulate
    flops = num_bytes = seconds = 0.0
    for product in traced.products:
        own, moved = product.flops / tensor, product.num_bytes / tensor
        if product.is_attention and plan.kernel != 'reference':
            moved = 0.0  # a fused kernel keeps them on the chip
        # Of a pipeline, whose stages compute while they idle too.
        times = product.times * accumulate * _ticks(plan)
        flops += own * times
        num_bytes += moved * times
        seconds += max(own / chip.flops * chip.cores, moved / chip.bandwidth * chip.cores) * times
    state = shard_bytes(plan.abstract.params), shard_bytes(plan.abstract.opt_state)
    update = 2 * sum(state) + state[0]  # reads and writes, and the gradient
    cores = chip.cores
    return Costs(
        _memory(plan, traced, plain, state, cores),
        cores * flops,
        cores * (num_bytes + update),
        seconds + cores * update / chip.bandwidth,
        _collectives(plan),
        'analytic',
    )


def _of_one_device(plan: Outline) -> ConfigDict:
    """With a batch of what one device has of a microbatch, and a kernel that can be traced."""
    config = plan.config.copy_and_resolve_references()
    ways = plan.sharding.batch_ways * config.accumulate
    config.data.batch_size //= ways
    config.accumulate = 1
    config.sharding.mesh, config.sharding.rules = 'data=1', 'dp'
    config.sharding.pipeline = 'gpipe'
    config.model.dtype = compute_dtype(plan.config.model.dtype, plan.platform)
    config.model.unroll = 1
    if plan.kernel.split()[0] in ('cudnn', 'fused', 'splash') or '(' in plan.kernel:
        config.model.kernel = 'blockwise'
    return config


def _memory(
    plan: Outline, traced: Traced, plain: Traced, state: tuple[int, int], cores: int
) -> Memory:
    config = plan.config
    kept = _kept(plan, traced) * _ticks(plan)
    # What is recomputed of one layer is there while its backward pass runs.
    again = 0.0 if config.model.remat == 'none' else _kept(plan, plain) / config.model.depth
    tokens = plan.tokens_per_step / plan.sharding.batch_ways / config.accumulate
    # Float32, and their gradient as the products of the head take it.
    logits = (4 + 2) * tokens * config.model.vocab_size / plan.sharding.mesh.shape['tensor']
    gathered = 2 * max(_whole_layer(plan), default=0.0)
    gradients = state[0]
    rest = gradients + again + logits + gathered
    return Memory(cores * state[0], cores * state[1], cores * kept, cores * rest)


def _kept(plan: Outline, traced: Traced) -> float:
    """The residual stream is whole on every chip of `tensor`; heads and hidden units are split.
    Logits count elsewhere.
    """
    model, tensor = plan.config.model, plan.sharding.mesh.shape['tensor']
    return sum(
        math.prod(x.shape) * x.dtype.itemsize / (1 if x.shape[-1:] == (model.width,) else tensor)
        for x in traced.kept
        if x.shape[-1:] != (model.vocab_size,)
    )


def _whole_layer(plan: Outline) -> list[float]:
    """Bytes of each parameter of one layer that are gathered to be used, in bfloat16."""
    return [2.0 * whole for _, _, whole, *_ in _weights(plan)]


def _weights(plan: Outline) -> list[tuple[tuple[str, ...], tuple[str, ...], float, int, int]]:
    """Of each parameter: axes of the batch that split it, those that do not, numbers of one layer
    that a chip uses, how many layers it has, and how often it uses one of them in a pass.
    """
    mesh = plan.sharding.mesh.shape
    stages = check_stages(plan.config, plan.sharding)
    found = []
    boxes = jax.tree.leaves(plan.boxed, is_leaf=lambda x: hasattr(x, 'names'))
    for leaf, box in zip(jax.tree.leaves(plan.abstract.params), boxes, strict=True):
        stacked = box.names[:1] == ('layers',)
        # Of a pipeline's stages each has its own layers, and of all else its own rows.
        batch = [a for a in plan.sharding.axes_of('batch') if not stacked or a != 'pipeline']
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
        times = 6 * stages.ticks * config.accumulate
        found.append(Collective('collective-permute', ('pipeline',), 2, size, times, False))
    if mesh['tensor'] > 1:
        tokens = plan.tokens_per_step / plan.sharding.batch_ways / config.accumulate
        sums = 4 + 2 * (config.model.remat == 'full')
        times = sums * config.model.depth * config.accumulate
        add('all-reduce', ('tensor',), 2 * tokens * config.model.width, times, False)
    return found
