"""What a step costs a chip: memory by kind, FLOPs, bytes, collectives; and how long that takes."""

import dataclasses
from collections.abc import Sequence

from bigmodel.planning.chips import Chip
from bigmodel.planning.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip at the peak of a step."""

    parameters: float | int
    optimizer: float | int
    activations: float | int  # that the forward pass keeps for the backward pass
    temporaries: float | int  # gradients, logits, gathered weights, and all the rest
    host: float | int = 0  # of these kinds, but in the memory of the chip's host

    @property
    def total(self) -> float | int:
        """All of the chip's own."""
        return self.parameters + self.optimizer + self.activations + self.temporaries


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one step and chip. `kernel_seconds` is Σ max(FLOPs/peak, bytes/bandwidth) over what the
    chip executes one after the other.
    """

    memory: Memory
    flops: float | int
    num_bytes: float | int
    kernel_seconds: float | int
    collectives: Sequence[Collective]
    how: str  # compiled, or analytic
    compile_seconds: float = 0.0
    int8_flops: float | int = 0.0  # of `flops`, those of products of int8

    def compute_seconds(self, chip: Chip) -> float:
        """At the chip's peaks."""
        return seconds_of(self.flops, self.int8_flops, chip)


def seconds_of(flops: float | int, int8: float | int, chip: Chip) -> float:
    """Of so many operations, of which some of int8, at a chip's peaks."""
    return (flops - int8) / chip.flops + int8 / chip.int8
