"""Why a run does not fit the memory of a device, and what would help, in lines for a terminal."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from bigmodel.errors import OutOfMemory
from bigmodel.planning.analytic import analytic_memory
from bigmodel.planning.buffers import Buffer, largest
from bigmodel.planning.compiled import shard_bytes
from bigmodel.planning.program import read_program
from bigmodel.planning.remedies import Remedy, remedies, total_bytes
from bigmodel.planning.said import buffers_in, used_and_there
from bigmodel.training.exhausted import Exhausted
from bigmodel.training.setup import Setup

MOST = 6  # buffers that are shown
SECONDS = 60  # in which what would help is compiled
CGROUP = pathlib.Path('/sys/fs/cgroup/memory.max')


def explained(error: Exhausted, compiles: bool = True) -> OutOfMemory:
    """The error to raise instead; without `compiles` what would help is modelled alone."""
    setup, said = error.setup, str(error)
    step = setup.programs.made('step')
    takes = total_bytes(step) if step is not None else None
    there = memory_of_device(said)
    kinds = _kinds(setup, step)
    wants = takes if takes is not None else sum(kinds.values())
    listed = buffers_in(said) or _buffers_of(step)
    helps = _help(remedies(setup, takes, SECONDS * compiles), there[0])
    lines = [
        f'out of memory: the training step wants {size(wants)} of a device that has {there[1]}',
        f'  it wants  {", ".join(f"{name} {size(n)}" for name, n in kinds.items())}',
        *_beside(wants, there[0], takes is None),
        *_table('  the largest buffers at its peak', _rows(listed)),
        *_table('  what would help most, with another --workdir', helps),
        f'  it said: {said.strip().splitlines()[0][:200]}',
    ]
    return OutOfMemory('\n'.join(lines))


def memory_of_device(said: str = '') -> tuple[int, str]:
    """Bytes, and in words. Of CPU devices it is that of the machine, or of its container."""
    compared = used_and_there(said)
    if compared:
        return compared[1], size(compared[1])
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get('bytes_limit', 0)
    if limit:
        return limit, f'{size(limit)} ({device.device_kind})'
    count = jax.local_device_count()
    there = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if CGROUP.exists() and CGROUP.read_text().strip().isdecimal():
        there = min(there, int(CGROUP.read_text()))
    share = f'an equal share of {size(there)}' if count > 1 else 'all of this machine'
    return there // count, f'{size(there // count)} ({share})'


def size(num_bytes: float | int) -> str:
    """'3.14 GiB' or '31.4 MiB'."""
    number, unit = (num_bytes / 2**30, 'GiB') if num_bytes >= 2**30 else (num_bytes / 2**20, 'MiB')
    return f'{number:.3g} {unit}' if number < 1000 else f'{number:,.0f} {unit}'


def _kinds(setup: Setup, step: Any) -> dict[str, float | int]:
    """Bytes of a device by what they are."""
    state = setup.abstract
    parameters, optimizer = shard_bytes(state.params), shard_bytes(state.opt_state)
    frozen = shard_bytes(state.companions)
    kinds: dict[str, float | int] = {'parameters': parameters, 'optimizer': optimizer}
    kinds |= {'companions': frozen} if frozen else {}
    if step is None and setup.companions:
        return kinds
    gradients = shard_bytes(setup.optimizer.selection.part(state.params))
    if step is None:
        chips = list(setup.sharding.mesh.devices.flat)
        modelled = analytic_memory(setup.config, chips, setup.data, {})
        rest = modelled.activations + max(modelled.temporaries - gradients, 0)
    else:
        rest = max(total_bytes(step) - parameters - optimizer - frozen - gradients, 0)
    return kinds | {'gradients': gradients, 'activations and temporaries': rest}


def _beside(wants: float | int, there: int, modelled: bool) -> list[str]:
    how = ['  by a model of the step, which could not be compiled'] * modelled
    if wants >= there:
        return how
    return [
        *how,
        '  which would fit: what else takes memory is another process, an evaluation, or what XLA '
        'leaves free (XLA_PYTHON_CLIENT_MEM_FRACTION)',
    ]


def _buffers_of(step: Any) -> list[Buffer]:
    if step is None:
        return []
    text = step.as_text()
    return largest(text, read_program(text))


def _rows(buffers: Sequence[Buffer]) -> list[tuple[str, ...]]:
    return [
        (
            size(b.num_bytes),
            f'{b.count} × {b.shape}' if b.count > 1 else b.shape,
            f'{b.phase} of {b.layer}' if b.phase and b.layer else b.phase or b.layer,
            b.source,
        )
        for b in buffers[:MOST]
    ]


def _help(found: Sequence[Remedy], there: int) -> list[tuple[str, ...]]:
    return [
        (
            r.flags,
            f'saves {size(r.saves)}',
            f'takes {size(r.takes)}' + (': fits' if r.takes < there else ''),
            r.effect + ('' if r.compiled else ' (modelled)'),
        )
        for r in found
    ]


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(f'{c:<{w}}' for c, w in zip(row, widths, strict=True)) for row in rows]
    return [title, *(f'    {line.rstrip()}' for line in lines)]
