"""What chips send each other in a compiled program, by kind and mesh axis."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from bigmodel.planning.program import Computation, Instruction, Program

_MESH = re.compile(
    r'replica_groups=mesh\[([^\]]*)\]'
    r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}'
)
KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of a program; it runs `times` a step and a chip sends `num_bytes` each time.

    `axes` are the mesh axes over which its group of `ways` chips lies; `overlaps` says that
    something is computed meanwhile.
    """

    kind: str
    axes: tuple[str, ...]
    ways: int
    num_bytes: float | int
    times: float | int
    overlaps: bool


def collectives_of(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """All collectives of a step.

    A TPU's compiler cuts an asynchronous one into pieces that it fuses with computations, each a
    clone with the same channel: that is counted once.
    """
    found: dict[tuple, Collective] = {}
    for where, instruction, times in program.executed():
        for computation, i, is_fused in _with_fused(program, where, instruction):
            made = _collective(computation, i, times, is_fused, mesh)
            if made is None:
                continue
            channel = re.search(r'channel_id=(\d+)', i.attributes)
            key = (channel[1] if channel else i.name, made.kind)
            before = found.get(key)
            if before is None or before.times < times:
                found[key] = made
    return [c for c in found.values() if c.ways > 1]


def _with_fused(
    program: Program, where: Computation, instruction: Instruction
) -> list[tuple[Computation, Instruction, bool]]:
    if instruction.opcode in ('fusion', 'async-start') and 'calls' in instruction.called:
        inner = program.computations[instruction.called['calls']]
        return [
            found if found[2] else (found[0], found[1], True)
            for i in inner.instructions.values()
            for found in _with_fused(program, inner, i)
        ]
    return [(where, instruction, False)]


def _collective(
    where: Computation, i: Instruction, times: float | int, is_fused: bool, mesh: Mapping[str, int]
) -> Collective | None:
    kind = i.opcode.removesuffix('-start')
    if kind not in KINDS:
        return None
    group = _group(i.attributes, math.prod(mesh.values()), tuple(mesh.values()))
    axes = _mesh_axes(group, mesh)
    sizes = [s.num_bytes for s in i.shapes]
    given = sum(where.instructions[n].shapes[0].num_bytes for n in i.operands)
    out = sum(sizes)
    if i.opcode.endswith('-start'):  # (operands, results, …)
        out = max(out - given, given) if kind == 'all-gather' else given
    scatters = 'reduce-scatter' in where.name or 'reduce_scatter' in where.name
    kind = 'reduce-scatter' if scatters and kind == 'all-reduce' else kind
    whole = out if kind == 'all-gather' else given
    overlaps = i.opcode.endswith('-start') or (is_fused and not scatters)
    ways = len(group)
    return Collective(kind, axes, ways, sent(kind, whole, ways), times, overlaps)


def sent(kind: str, whole: float | int, ways: int) -> float | int:
    """What a chip sends, around a ring: of an all-reduce everything twice, but its own part."""
    if kind == 'collective-permute':
        return whole
    return (2 if kind == 'all-reduce' else 1) * whole * (ways - 1) / max(ways, 1)


def _mesh_axes(group: Sequence[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the chips of a group differ."""
    places = np.array(np.unravel_index(list(group), tuple(mesh.values())))
    return tuple(a for a, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)


def _group(attributes: str, count: int, sizes: tuple[int, ...]) -> list[int]:
    """The first group of chips, by their place in the mesh."""
    pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', attributes)
    if pairs:
        sent = [[int(n) for n in p.split(',')] for p in re.findall(r'\d+,\d+', pairs[1])]
        # Some keep what they have.
        return next((pair for pair in sent if pair[0] != pair[1]), sent[0])
    named = _MESH.search(attributes)
    if named:
        return _of_mesh(named[1], _ids(named[2], named[3]), named[4])
    listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
    if listed:
        return [int(n) for n in listed[1].split(',')]
    iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes)
    if iota:
        shape = [int(n) for n in iota[1].split(',')]
        return _ids(iota[2], iota[3]).reshape(shape)[0].tolist()
    return list(range(count))


def _ids(dims: str | None, order: str | None) -> np.ndarray | None:
    """Of `[4,2]T(1,0)`: chips counted along these dims, which then change places."""
    if dims is None:
        return None
    sizes = [int(n) for n in dims.split(',')]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(',')]) if order else ids


def _of_mesh(axes: str, ids: np.ndarray | None, chosen: str) -> list[int]:
    """Of `'axis_0'=4,'axis_1'=2` and `'axis_1'`, which may have a part: `'axis_0':(1)2`; `ids` are
    the chips, where they are not in order.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
    names = list(sizes)
    ids = np.arange(math.prod(sizes.values())) if ids is None else ids
    grid = ids.reshape(tuple(sizes.values()))
    ranges = {name: [0] for name in names}
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen):
        whole = sizes[name]
        if not size:
            ranges[name] = list(range(whole))
        else:
            step = whole // (int(before) * int(size))
            ranges[name] = [k * step for k in range(int(size))]
    return [int(grid[at]) for at in itertools.product(*(ranges[n] for n in names))]
