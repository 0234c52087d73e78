"""What one chip of each kind can do, as its maker says."""

import dataclasses

from bigmodel.peaks import PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class Chip:
    """Dense peaks in operations a second, sizes in bytes, bandwidths in bytes a second.

    `link` is what a chip sends around a ring over one dim of the torus, both ways together (TPU),
    or to others of its node (GPU, one way); `network` what a chip sends to other nodes or slices.
    `torus` are the most chips of a pod along each dim, () for a GPU; a dim is a ring when it is a
    multiple of `wraps`.
    """

    kind: str
    flops: float
    int8: float
    memory: float
    bandwidth: float
    link: float
    network: float
    torus: tuple[int, ...] = ()
    wraps: int = 0
    cores: int = 1  # devices of JAX a chip
    config: str = 'default'  # libtpu's name for how its cores are used


# Compared in November 2026 with the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x
# (Ironwood)" of Google's Cloud TPU documentation: peaks, HBM, chips of a pod, data center network
# (v5e and v6e: of a pod, over its 256 chips). Links: "How to Scale Your Model", Austin et al. 2025,
# chapter 2: 45 or 90 GB/s one way, where the pages have 50 or 100. A v5p pod is 16×20×28, of which
# a job has 16×16×24 at most. GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM, and
# the page of HGX B200; NVLink one way; network: one port a GPU of DGX A100, H100, H200 and B200.
CHIPS = {
    'v4': Chip(
        'TPU v4',
        PEAK_FLOPS['TPU v4'],
        275e12,
        32 * 2.0**30,
        1228e9,
        90e9,
        6.25e9,
        (16, 16, 16),
        4,
        config='megacore',  # both cores of a chip are one device, as in a run
    ),
    'v5e': Chip(
        'TPU v5e',
        PEAK_FLOPS['TPU v5 lite'],
        394e12,
        16 * 2.0**30,
        819e9,
        90e9,
        3.125e9,
        (16, 16),
        16,
    ),
    'v5p': Chip(
        'TPU v5p',
        PEAK_FLOPS['TPU v5p'],
        918e12,
        95 * 2.0**30,
        2765e9,
        180e9,
        6.25e9,
        (16, 20, 28),
        4,
    ),
    'v6e': Chip(
        'TPU v6e',
        PEAK_FLOPS['TPU v6 lite'],
        1836e12,
        32 * 2.0**30,
        1640e9,
        180e9,
        12.5e9,
        (16, 16),
        16,
    ),
    # Its `int8` is FP8.
    'tpu7x': Chip(
        'TPU7x',
        2 * PEAK_FLOPS['TPU7x'],
        4614e12,
        192 * 2.0**30,
        7380e9,
        180e9,
        12.5e9,
        (16, 24, 24),
        4,
        2,
    ),
    'a100': Chip('A100 80GB', PEAK_FLOPS['NVIDIA A100'], 624e12, 80e9, 2039e9, 300e9, 25e9),
    'h100': Chip('H100', PEAK_FLOPS['NVIDIA H100'], 1979e12, 80e9, 3350e9, 450e9, 50e9),
    'h200': Chip('H200', PEAK_FLOPS['NVIDIA H200'], 1979e12, 141e9, 4800e9, 450e9, 50e9),
    'b200': Chip('B200', PEAK_FLOPS['NVIDIA B200'], 4500e12, 180e9, 7700e9, 900e9, 50e9),
}
