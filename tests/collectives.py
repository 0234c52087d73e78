"""The collectives of a compiled program: what is moved, and over which axes of the mesh."""

import dataclasses
import itertools
import math
import re

import numpy as np
from jax.sharding import Mesh

KINDS = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute', 'reduce-scatter')
# '%x = (f32[2,3]{1,0}, f32[4]{0}) all-reduce(' or '... all-gather-start('
_CALL = re.compile(rf'= (.*?) ({"|".join(KINDS)})(?:-start)?\(')
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')
_LISTS = re.compile(r'replica_groups=\{(\{[\d,{} ]*\})\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(
    r'replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}'
)
_SUB_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r'source_target_pairs=\{(.*?)\}\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One call; `arrays` are the dtypes and shapes of its results."""

    kind: str
    axes: tuple[str, ...]
    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def scalars(self) -> int:
        """How many numbers a device has of the result."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    def __str__(self) -> str:
        return f'{self.kind} over {"×".join(self.axes)}'


def collectives(hlo: str, mesh: Mesh) -> list[Collective]:
    """Every collective of a program, in order; those among single devices are none."""
    found = []
    for line in hlo.splitlines():
        call = _CALL.search(line)
        if call:
            arrays = tuple(
                (dtype, tuple(int(n) for n in shape.split(',') if n))
                for dtype, shape in _ARRAY.findall(call[1])
            )
            axes = _axes(_groups(line, mesh.size), mesh)
            if axes:
                found.append(Collective(call[2], axes, arrays))
    return found


def _groups(line: str, size: int) -> list[list[int]]:
    """The devices that meet, by their place in the mesh."""
    if pairs := _PAIRS.search(line):
        return [_ints(pair) for pair in pairs[1].replace('{', '').split('},')]
    if named := _MESH.search(line):
        return _of_named(*named.groups())
    if iota := _IOTA.search(line):
        shape, dims, order = (_ints(x or '') for x in iota.groups())
        return _ids(dims, order).reshape(shape).tolist()
    if lists := _LISTS.search(line):
        return [_ints(group) for group in lists[1].strip('{}').split('},{')]
    return [list(range(size))]


def _of_named(axes: str, dims: str | None, order: str | None, along: str) -> list[list[int]]:
    """Groups along axes ('a', or a part 'b':(2)4 of one) of XLA's own mesh, 'a'=8,'b'=16."""
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
    shape, whole = [], {}
    parts = {name: [] for name in sizes}
    for name, before, size in _SUB_AXIS.findall(along):
        parts[name].append((int(before or 1), int(size or sizes[name])))
    for name, size in sizes.items():
        for before, part in parts[name]:
            after = size // before // part
            whole[len(shape) + 1] = True
            shape += [before, part, after]
        if not parts[name]:
            shape.append(size)
    ids = _ids(_ints(dims or str(math.prod(sizes.values()))), _ints(order or '')).reshape(shape)
    inner = [i for i in range(len(shape)) if i in whole]
    outer = [i for i in range(len(shape)) if i not in whole]
    width = math.prod(shape[i] for i in inner)
    return ids.transpose([*outer, *inner]).reshape(-1, width).tolist()


def _ids(dims: list[int], order: list[int]) -> np.ndarray:
    ids = np.arange(math.prod(dims)).reshape(dims)
    return ids.transpose(order) if order else ids


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The axes along which devices that meet differ."""
    place = dict(enumerate(itertools.product(*(range(n) for n in mesh.devices.shape))))
    differ = [
        len({place[device][i] for device in group}) > 1
        for group in groups
        for i in range(mesh.devices.ndim)
    ]
    by_axis = np.array(differ).reshape(len(groups), -1).any(0)
    return tuple(name for name, found in zip(mesh.axis_names, by_axis, strict=True) if found)


def _ints(text: str) -> list[int]:
    return [int(n) for n in text.split(',') if n.strip()]
