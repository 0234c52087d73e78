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
    'TPU v6 lite': 918e12,
}
