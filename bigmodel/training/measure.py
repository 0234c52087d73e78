"""What a step of a config takes on this machine."""

import dataclasses
import statistics
import time
from typing import Any

import jax

from bigmodel import devices
from bigmodel.config import ConfigDict
from bigmodel.training.batches import put_batch
from bigmodel.training.kernel_check import check_kernels, require
from bigmodel.training.loop import compile_beside
from bigmodel.training.setup import build


def measure(config: ConfigDict, steps: int) -> dict[str, Any]:
    """The figures of one config in this process; times end when the device is done."""
    setup = build(config)
    with setup.sharding.active():
        state, train_step, compile_seconds = compile_beside(setup, setup.initial_state)
        checked = {}
        if config.model.check_kernel:
            checked['kernel_check'] = check_kernels(setup, state.params, state.companions)
            require(checked['kernel_check'])
        batches = [put_batch(setup.data.batches(i), setup.sharding) for i in range(4)]
        state, _ = jax.block_until_ready(train_step(state, batches[0], setup.hparams))
        first = devices.process_age()
        times = []
        for i in range(steps + 2):
            before = time.perf_counter()
            state, _ = jax.block_until_ready(train_step(state, batches[i % 4], setup.hparams))
            times.append(1000 * (time.perf_counter() - before))
    times = sorted(times[2:])
    median = statistics.median(times)
    rate = 1000 * setup.tokens_per_step / median
    peak = devices.peak_flops()
    low, high = times[len(times) // 10], times[-1 - len(times) // 10]
    return {
        'config': config.name,
        'tokens_per_second': round(rate, 1),
        'step_ms': {'median': round(median, 3), 'p10': round(low, 3), 'p90': round(high, 3)},
        'first_step_seconds': round(first, 3),
        'compile_seconds': round(compile_seconds, 3),
        'peak_memory_bytes': devices.peak_memory_bytes(),
        **dataclasses.asdict(setup.sizes),
        'flops_per_token': setup.flops_per_token,
        'mfu': rate * setup.flops_per_token / peak if peak else None,
        'kernel': setup.kernel,
        'devices': devices.describe(),
    } | checked
