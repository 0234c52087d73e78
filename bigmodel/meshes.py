"""From 'data=2,tensor=4' to a mesh of devices, also over several slices with slower links between.

`dcn_fsdp=2,fsdp=4` is an axis fsdp of 8 devices: 2 slices, each of which has 4 of them.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bigmodel.errors import UserError, unknown
from bigmodel.rules import MESH_AXES

SLOW = 'dcn_'  # of an axis between slices, over the data centre's network


def make_mesh(text: str, devices: Sequence[Any]) -> Mesh:
    """The mesh of `text` over the first devices; axes that it does not name have size 1."""
    sizes = mesh_sizes(text, len(devices))
    shape = tuple(sizes[a] * sizes[SLOW + a] for a in MESH_AXES)
    types = (AxisType.Auto,) * len(shape)
    slow = tuple(sizes[SLOW + a] for a in MESH_AXES)
    if math.prod(slow) > 1:
        grid = _hybrid(text, tuple(sizes[a] for a in MESH_AXES), slow, list(devices))
    elif hasattr(devices[0], 'coords') and math.prod(shape) == len(devices):
        # Of a TPU, also of one that is not there: along the torus, or XLA finds no rings in it.
        grid = mesh_utils.create_device_mesh(shape, list(devices), allow_split_physical_axes=True)
    elif math.prod(shape) == len(jax.devices()) and list(devices) == list(jax.devices()):
        return jax.make_mesh(shape, MESH_AXES, axis_types=types)
    else:
        grid = np.array(devices[: math.prod(shape)]).reshape(shape)
    idle = {d.process_index for d in devices} - {d.process_index for d in grid.flat}
    if idle:
        raise UserError(
            f'sharding.mesh={text!r} takes {grid.size} of {len(devices)} devices, and none of host '
            f'{min(idle)}; write -1 for the size of an axis, or start fewer hosts'
        )
    return Mesh(grid, MESH_AXES, axis_types=types)


def _hybrid(
    text: str, fast: tuple[int, ...], slow: tuple[int, ...], devices: list[Any]
) -> np.ndarray:
    """Devices in which each slice is a block of `fast`, and blocks are laid out as `slow`."""
    slices = _slices(devices, math.prod(slow))
    if len(slices) != math.prod(slow) or any(len(s) < math.prod(fast) for s in slices):
        raise UserError(
            f'sharding.mesh={text!r} asks for {math.prod(slow)} slices of {math.prod(fast)} '
            f'devices; there are {len(slices)} of {min(map(len, slices))}'
        )
    grids = np.empty(len(slices), object)
    for i, own in enumerate(slices):
        own = own[: math.prod(fast)]
        if own[0].platform == 'tpu' and not hasattr(own[0], 'coords'):  # only imagined
            grids[i] = np.array(own).reshape(fast)
            continue
        grids[i] = mesh_utils.create_device_mesh(fast, own, allow_split_physical_axes=True)
    # Axis by axis: first over slices, then within one.
    return np.block(grids.reshape(slow).tolist())


def _slices(devices: list[Any], count: int) -> list[list[Any]]:
    """TPUs know their slice, a host of GPUs is one; CPUs of one host play `count` of them."""
    by_slice = devices[0].platform != 'cpu' and hasattr(devices[0], 'slice_index')
    found: dict[int, list[Any]] = {}
    for device in devices:
        number = device.slice_index if by_slice else device.process_index
        found.setdefault(number, []).append(device)
    if devices[0].platform == 'cpu' and len(found) == 1:
        each = len(devices) // count
        return [devices[i * each : (i + 1) * each] for i in range(count)]
    return [found[i] for i in sorted(found)]


def mesh_sizes(text: str, available: int) -> dict[str, int]:
    """The size of every axis within a slice, and of every axis between slices."""
    names = (*MESH_AXES, *(SLOW + a for a in MESH_AXES))
    sizes, given = dict.fromkeys(names, 1), set()
    for part in filter(None, text.replace(' ', '').split(',')):
        axis, _, size = part.partition('=')
        if axis not in sizes:
            raise unknown('mesh axis', axis, names)
        if size != '-1' and (not size.isdecimal() or int(size) == 0):
            raise UserError(f"sharding.mesh={text!r}: write 'data=2,tensor=4', or -1 for the rest")
        if axis in given:
            raise UserError(f'sharding.mesh={text!r} gives {axis!r} twice')
        given.add(axis)
        sizes[axis] = int(size)
    rest = [a for a, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n > 0)
    if len(rest) > 1:
        raise UserError(f'sharding.mesh={text!r}: only one axis can be -1')
    if fixed > available or (rest and available % fixed):
        raise UserError(
            f'sharding.mesh={text!r} needs {fixed} devices or a divisor; there are {available}'
        )
    if rest:
        sizes[rest[0]] = available // fixed
    return sizes
