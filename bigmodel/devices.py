"""What must be set before JAX touches a device, and what devices can do."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import resource
import time

import jax

from bigmodel.config import cache_dir
from bigmodel.peaks import PEAK_FLOPS

# glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX.
KEEP_FREED_MEMORY = {-1: 2**31 - 1, -4: 0, -8: 1}
# XLA:CPU at a sixth of the time to compile, for programs that run once. Its tanh is then only good
# to 1e-4.
QUICK_COMPILE = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_use_fusion_emitters': False,
}
GROUPED_PRODUCTS, FIRST_LIBTPU = 'xla_tpu_enable_ragged_dot_kernel', [0, 0, 52]


def configure(host_devices: int, rows: int) -> None:
    """Sets the number of CPU devices and the compilation cache; call before anything computes.

    XLA:CPU hardly uses a second core inside one program, so by default (`host_devices` 0) there is
    one device for each core, or fewer, so that they divide the `rows` of a microbatch.
    """
    _keep_freed_memory()
    configure_libtpu()
    jax.config.update('jax_compilation_cache_dir', str(cache_dir() / 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
    if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    count = host_devices or max(n for n in range(1, (cores or 1) + 1) if rows % n == 0)
    with contextlib.suppress(RuntimeError):  # a backend is already up: its devices are what is
        jax.config.update('jax_num_cpu_devices', count)


def configure_libtpu() -> None:
    """Lets a TPU compute products of groups of rows (`moe`) by libtpu's own kernel, before it is
    loaded; a value that the user has given stays.

    Otherwise libtpu multiplies all rows with the matrices of all groups. The kernel is that of
    Gale et al. 2022 (MegaBlocks), as in jax.experimental.pallas.ops.tpu.megablox. libtpu ends the
    process for a flag that it does not know, so older versions than were tried get none.
    """
    given = os.environ.get('LIBTPU_INIT_ARGS', '')
    if GROUPED_PRODUCTS in given or importlib.util.find_spec('libtpu') is None:
        return
    version = importlib.metadata.version('libtpu').split('.')
    if [int(n) for n in version[:3] if n.isdecimal()] >= FIRST_LIBTPU:
        os.environ['LIBTPU_INIT_ARGS'] = f'{given} --{GROUPED_PRODUCTS}=true'.strip()


def _keep_freed_memory() -> None:
    """Lets malloc reuse freed memory instead of handing it back to the system.

    XLA:CPU allocates the buffers of a step anew at every step; what malloc had handed back, the
    system zeroes again, page by page (measured: 80,000 page faults and a quarter of the time of a
    quickstart step). Memory that is freed later stays with the process. Does nothing without glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        for option, value in KEEP_FREED_MEMORY.items():
            libc.mallopt(option, value)


def quick_compile() -> dict[str, bool | int] | None:
    """Compiler options for a program that runs once, such as an initialisation."""
    return QUICK_COMPILE if jax.default_backend() == 'cpu' else None


def describe() -> str:
    """'2 × cpu' or '8 × NVIDIA H100'."""
    devices = jax.devices()
    return f'{len(devices)} × {devices[0].device_kind}'


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices together; None where it is not known."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)]
    return known[0] * len(jax.devices()) if known else None


def peak_memory_bytes() -> int:
    """Peak memory of the busiest device; on CPU, of this process."""
    stats = [d.memory_stats() or {} for d in jax.local_devices()]
    peaks = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
    return max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def process_age() -> float:
    """Seconds since this process started."""
    try:
        with open('/proc/self/stat') as f:
            ticks = int(f.read().rpartition(')')[2].split()[19])
        started = ticks / os.sysconf('SC_CLK_TCK')
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):  # no /proc: count from the interpreter's first timer
        return time.process_time()
