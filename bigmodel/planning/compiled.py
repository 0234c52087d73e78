"""The costs of a training step, read from the program that XLA compiles for the chips of a pod.

Not from `cost_analysis`, which counts the body of a loop once however often it runs, and knows
nothing of hand-written kernels: `program.py` reads how often each loop runs, and the costs of every
instruction are multiplied by it. Layers are planned as one loop (`model.unroll=1`), which compiles
fastest; a run of few layers may unroll them.
"""

import math
import pathlib
import tempfile
import time
from typing import Any

import jax

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.planning.collectives import collectives_of
from bigmodel.planning.costs import Costs, Memory, seconds_of
from bigmodel.planning.products import flops_of
from bigmodel.planning.program import Program, Shape, read_program
from bigmodel.planning.said import used_and_there
from bigmodel.planning.topology import Topology, devices_of, without_flags
from bigmodel.planning.traffic import bytes_of
from bigmodel.training.lowering import abstract_batch, lower_step
from bigmodel.training.outline import Outline, outline

# They run beside what the chip computes.
_ASYNCHRONOUS = ('copy-start', 'slice-start', 'async-start')


class DoesNotFit(UserError):
    """XLA finds no way to fit a program into the chips' memory."""


def compiled_costs(config: ConfigDict, topology: Topology) -> tuple[Outline, Costs]:
    """The outline of a resolved config on these chips, and what its step costs.

    Raises UserError for a mesh or sizes that do not fit the chips, and where XLA finds no way to
    fit the program into their memory.
    """
    plan = outline(config, chips=devices_of(topology))
    began = time.perf_counter()
    with plan.sharding.active():
        lowered = lower_step(plan, plan.task, abstract_batch(plan))
    # Written by the compiler itself: `as_text` cannot read some asynchronous instructions back.
    with tempfile.TemporaryDirectory() as folder:
        written = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
        try:
            with without_flags():
                executable = lowered.compile(compiler_options=written)
        except jax.errors.JaxRuntimeError as e:
            raise refused(e, topology) from e
        (text,) = (p.read_text() for p in pathlib.Path(folder).glob('*.after_optimizations.txt'))
    seconds = time.perf_counter() - began
    return plan, costs_of(plan, executable, text, topology, seconds)


def costs_of(
    plan: Outline, executable: Any, text: str, topology: Topology, seconds: float = 0.0
) -> Costs:
    """What an executable of the plan's step, with its program in `text`, costs one device."""
    program = read_program(text)
    chip, cores = topology.chip, topology.chip.cores
    flops = int8_flops = num_bytes = kernel_seconds = 0.0
    for where, instruction, times in program.executed():
        own, moved = flops_of(program, where, instruction), bytes_of(program, where, instruction)
        int8 = flops_of(program, where, instruction, 's8')
        flops, int8_flops = flops + own * times, int8_flops + int8 * times
        num_bytes += moved * times
        if instruction.opcode not in _ASYNCHRONOUS:
            longest = max(seconds_of(own, int8, chip) * cores, moved * cores / chip.bandwidth)
            kernel_seconds += longest * times
    collectives = collectives_of(program, dict(plan.sharding.mesh.shape))
    memory = _memory(plan, executable, program, cores)
    each = (flops * cores, num_bytes * cores, kernel_seconds)
    return Costs(memory, *each, collectives, 'compiled', seconds, int8_flops * cores)


def shard_bytes(tree: Any) -> int:
    """Bytes that one device holds of abstract arrays with their placements."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def optimizer_bytes(plan: Outline) -> tuple[int, int]:
    """Bytes of the optimizer's state of one device: in its own memory, and in that of its host."""
    leaves, waits = jax.tree.leaves(plan.abstract.opt_state), plan.optimizer.storage.on_host
    own, on_host = ([x for x in leaves if waits(x) == host] for host in (False, True))
    return shard_bytes(own), shard_bytes(on_host)


def _memory(plan: Outline, executable: Any, program: Program, cores: int) -> Memory:
    stats = executable.memory_analysis()
    parameters = shard_bytes(plan.abstract.params)
    optimizer, _ = optimizer_bytes(plan)
    # Arguments and temporaries; the new state takes the old one's place.
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    total = stats.argument_size_in_bytes + stats.temp_size_in_bytes + max(new, 0)
    total += stats.generated_code_size_in_bytes
    kept = kept_bytes(program)
    rest = max(total - parameters - optimizer - kept, 0)
    host = stats.host_argument_size_in_bytes + stats.host_temp_size_in_bytes
    host += max(stats.host_output_size_in_bytes - stats.host_alias_size_in_bytes, 0)
    return Memory(*(cores * size for size in (parameters, optimizer, kept, rest, host)))


def kept_bytes(program: Program) -> int:
    """What the loop over layers stacks up in the forward pass, for the backward pass to read."""
    kept = 0
    for _, loop, _ in program.executed():
        if loop.opcode != 'while' or 'transpose(' in loop.attributes:
            continue
        body, trips = program.computations[loop.called['body']], program.trips(loop)
        (argument,) = (i for i in body.instructions.values() if i.opcode == 'parameter')
        root = body.root
        if root.opcode != 'tuple':
            continue
        for name, shape in zip(root.operands, loop.shapes, strict=True):
            made = body.instructions[name]
            handed = made.opcode == 'get-tuple-element' and argument.name in made.operands
            if not handed and not shape.on_host and _stacked(shape, trips):
                kept += shape.num_bytes
    return kept


def _stacked(shape: Shape, trips: int) -> bool:
    return len(shape.dims) > 1 and shape.dims[0] == trips


def refused(e: Exception, topology: Topology) -> UserError:
    """The error to raise instead of what XLA says when it compiles a plan."""
    text = str(e)
    if 'RESOURCE_EXHAUSTED' in text or 'Ran out of memory' in text:
        found = used_and_there(text)
        used = ': {:.1f} of {:.1f} GiB'.format(*(n / 2**30 for n in found)) if found else ''
        return DoesNotFit(
            f'it does not fit {topology.chip.kind}{used}; '
            'set model.remat=full, a smaller data.batch_size or larger accumulate, split more of '
            'the weights (sharding.rules=fsdp), set optimizer.offload, or take more chips'
        )
    return UserError(f'XLA cannot compile this for {topology.name}: {text.splitlines()[0][:300]}')
