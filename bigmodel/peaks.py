"""What devices can do at most, as their makers say."""

# Dense peak FLOP/s of one device in bfloat16, from the vendors' data sheets.
PEAK_FLOPS = {
    'NVIDIA A100': 312e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA B200': 2250e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,  # what JAX calls a v5p
    'TPU v6 lite': 918e12,
    'TPU7x': 1153.5e12,  # a chip is two devices
}
