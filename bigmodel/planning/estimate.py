"""From costs to time: the roofline of a step, what bounds it, and what a run takes."""

import dataclasses
from collections.abc import Mapping, Sequence

from bigmodel.planning.collectives import Collective
from bigmodel.planning.costs import Costs
from bigmodel.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step, by what it waits for, and what follows.

    `compute`, `memory` and `network` are each alone; `step` is how long it takes when what overlaps
    does and what does not adds up.
    """

    compute: float
    memory: float
    network: float
    kernels: float
    exposed: float
    step: float
    tokens_per_second: float  # a chip
    mfu: float

    @property
    def bound(self) -> str:
        """What a step waits for most."""
        hidden = self.step - self.exposed
        parts = {
            'collectives that nothing hides': self.exposed,
            'compute': self.compute,
            'memory bandwidth': max(self.memory, self.kernels - self.compute),
        }
        if hidden > self.kernels * 1.0001 and hidden > self.memory * 1.0001:
            return 'collectives'
        return max(parts, key=lambda name: parts[name])


def estimate(
    costs: Costs, topology: Topology, mesh: Mapping[str, int], tokens: int, flops: int
) -> Estimate:
    """Of a step of `tokens` tokens and `flops` model FLOPs a token, recomputation left out.

    step = max(Σ kernels, bytes/bandwidth, collectives that overlap) + those that do not: a bound
    from below, because no kernel reaches the chip's peaks.
    """
    chip = topology.chip
    times = [(c, seconds_of(c, topology, mesh)) for c in costs.collectives]
    hidden = float(sum(s for c, s in times if c.overlaps))
    exposed = float(sum(s for c, s in times if not c.overlaps))
    memory = costs.num_bytes / chip.bandwidth
    step = max(costs.kernel_seconds, memory, hidden) + exposed
    rate = tokens / topology.num_chips / step
    return Estimate(
        costs.compute_seconds(chip),
        memory,
        hidden + exposed,
        costs.kernel_seconds,
        exposed,
        step,
        rate,
        rate * flops / chip.flops,
    )


def seconds_of(c: Collective, topology: Topology, mesh: Mapping[str, int]) -> float:
    """Of all its executions in a step."""
    names = list(mesh)
    last = max((names.index(a) for a in c.axes), default=0)
    stride = 1
    for name in names[last + 1 :]:
        stride *= mesh[name]
    return c.times * c.num_bytes / topology.bandwidth(c.ways, stride)


def by_kind_and_axis(
    collectives: Sequence[Collective],
) -> dict[tuple[str, str], tuple[float, float]]:
    """(kind, axes) -> how many a step, and bytes that a chip sends."""
    table: dict[tuple[str, str], tuple[float, float]] = {}
    for c in collectives:
        key = (c.kind, '×'.join(c.axes))
        count, size = table.get(key, (0.0, 0.0))
        table[key] = (count + c.times, size + c.times * c.num_bytes)
    return dict(sorted(table.items(), key=lambda item: -item[1][1]))
