"""A pod by its name: `v5p:8x8x4`, chips along each dim; `h100:8x4`, GPUs a node × nodes."""

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterator
from typing import Any

from bigmodel.devices import configure_libtpu
from bigmodel.errors import UserError, unknown
from bigmodel.planning.chips import CHIPS, Chip

# What a plan asks libtpu for must not look for this machine's own TPU, nor keep another from it.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind, and how they lie."""

    name: str
    chip: Chip
    dims: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """All of them."""
        return math.prod(self.dims)

    @property
    def is_tpu(self) -> bool:
        """Whether it can be compiled for without one."""
        return bool(self.chip.torus)

    @property
    def num_devices(self) -> int:
        """As JAX counts them."""
        return self.num_chips * self.chip.cores

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether each dim closes to a ring."""
        return tuple(size % self.chip.wraps == 0 for size in self.dims)

    def bandwidth(self, ways: int, stride: int = 1) -> float:
        """Bytes a second that a chip of a ring of `ways` sends.

        On a torus a ring over several dims uses the links of all; a dim that does not close sends
        one way at a time, at half the rate. Of GPUs, a ring that leaves the node has its network;
        `stride` is how far apart neighbours of the ring are in the mesh.
        """
        if not self.is_tpu:
            inside = ways * stride <= self.dims[0]
            return self.chip.link if inside else self.chip.network
        left, rate = ways, 0.0
        for size in sorted(self.dims, reverse=True):
            if left <= 1:
                break
            closes = size % self.chip.wraps == 0 and left >= size
            rate += self.chip.link * (1.0 if closes else 0.5)
            left = -(-left // size)
        return rate or self.chip.link


def parse_topology(text: str) -> Topology:
    """The topology of a name; raises UserError with those that are known."""
    kind, _, shape = text.partition(':')
    if kind not in CHIPS:
        raise unknown('--topology', kind, CHIPS)
    chip = CHIPS[kind]
    parts = shape.split('x')
    if not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UserError(f'--topology={text!r}: write {_form(kind)}')
    dims = tuple(int(p) for p in parts)
    if not chip.torus:
        if len(dims) == 1 and (dims[0] <= 8 or dims[0] % 8 == 0):
            dims = (min(dims[0], 8), -(-dims[0] // 8))
        if len(dims) != 2 or dims[0] > 8:
            raise UserError(f'--topology={text!r}: write {_form(kind)}, at most 8 a node')
        return Topology(text, chip, dims)
    known = shapes(chip)
    if dims not in known and not _is_of_cubes(dims, chip):
        listed = ', '.join('x'.join(map(str, s)) for s in known)
        most = 'x'.join(map(str, chip.torus))
        cubes = f' and other multiples of 4 up to {most}' if len(chip.torus) == 3 else ''
        raise UserError(f'--topology={text!r} does not exist. Known of {kind}: {listed}{cubes}')
    return Topology(text, chip, dims)


def shapes(chip: Chip) -> list[tuple[int, ...]]:
    """The slices that a pod of TPUs is cut into, smallest first."""
    if len(chip.torus) == 2:
        steps = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
        return list(steps)
    small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
    sides = [[n for n in range(4, most + 1, 4)] for most in chip.torus]
    cubes = [(a, b, c) for a in sides[0] for b in sides[1] for c in sides[2] if a <= b <= c]
    flat = [(c, b, a) for a, b, c in cubes if (c, b, a) not in cubes]  # also written largest first
    within = [s for s in flat if max(s) <= max(chip.torus)]
    usual = [s for s in cubes + within if _is_usual(s)]
    return small + sorted(usual, key=lambda s: (math.prod(s), s))


def _is_of_cubes(shape: tuple[int, ...], chip: Chip) -> bool:
    """Whether a pod in three dims has so many cubes of 4 × 4 × 4 chips side by side."""
    within = zip(sorted(shape), sorted(chip.torus), strict=False)
    return (
        len(shape) == len(chip.torus) == 3
        and all(n % 4 == 0 for n in shape)
        and all(n <= most for n, most in within)
    )


def _is_usual(shape: tuple[int, ...]) -> bool:
    """Sides of a power of two: the others can be had, but are too many to list."""
    return all(n & (n - 1) == 0 for n in shape)


def devices_of(topology: Topology) -> list[Any]:
    """The chips as devices to compile for; raises UserError where libtpu is not installed."""
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={topology.name}: compiling for a TPU that is not here needs libtpu: '
            'pip install libtpu (137 MB), or add --analytic'
        )
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    configure_libtpu()
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', f'{topology.name.partition(":")[0]}-8')
    from jax.experimental import topologies

    try:
        with without_flags():
            # libtpu takes a cube of chips for one without the links that close its rings.
            found = topologies.get_topology_desc(
                platform='tpu',
                topology_name=topology.name,
                chip_config_name=topology.chip.config,
                wrap=[*topology.wraps, *[False] * (3 - len(topology.dims))],
            )
    except Exception as e:  # libtpu's own kinds of errors
        raise UserError(f'--topology={topology.name}: libtpu refuses it: {e}') from e
    return list(found.devices)


@contextlib.contextmanager
def without_flags() -> Iterator[None]:
    """Hides XLA_FLAGS from libtpu, which ends the process for one that it does not know."""
    import jax

    jax.devices('cpu')  # which has read them then
    flags = os.environ.pop('XLA_FLAGS', None)
    try:
        yield
    finally:
        if flags is not None:
            os.environ['XLA_FLAGS'] = flags


def _form(kind: str) -> str:
    example = {2: '16x16', 3: '8x8x4'}.get(len(CHIPS[kind].torus))
    return f'{kind}:{example}' if example else f'{kind}:8x4 (8 GPUs a node, 4 nodes)'
