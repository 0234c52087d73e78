"""`bench`: step time of a config, as one JSON object."""

import argparse
import dataclasses
import json
import statistics
import time
from typing import Any

from bigmodel.commands.open_run import load_config
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bench`."""
    parser.add_argument('--steps', type=int, default=20, help='timed steps, after 3 that are not')


def run(args: argparse.Namespace) -> int:
    """Prints the figures; writes nothing but the prepared data and the compilation cache."""
    from bigmodel import devices
    from bigmodel.training.setup import resolve

    if args.steps < 2:
        raise UserError(f'--steps={args.steps} must be at least 2')
    config = resolve(load_config(args))
    devices.configure(config.sharding.host_devices, config.data.batch_size // config.accumulate)
    print(json.dumps(measure(config, args.steps), indent=2))
    return 0


def measure(config: Any, steps: int) -> dict[str, Any]:
    """The figures of one config in this process; times end when the device is done."""
    import jax

    from bigmodel import devices
    from bigmodel.training.batches import put_batch
    from bigmodel.training.kernel_check import check_kernels, require
    from bigmodel.training.loop import compile_beside
    from bigmodel.training.setup import build

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
