"""Why a run does not fit the memory of a device, and what would help, in lines for a terminal."""

import os
import pathlib
import resource
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.errors import OutOfMemory
from bigmodel.planning.analytic import analytic_memory
from bigmodel.planning.buffers import Buffer, largest
from bigmodel.planning.compiled import optimizer_bytes, shard_bytes
from bigmodel.planning.program import read_program
from bigmodel.planning.remedies import Remedy, remedies, total_bytes
from bigmodel.planning.said import buffers_in, used_and_there
from bigmodel.training.exhausted import Exhausted
from bigmodel.training.setup import Setup

MOST = 6  # buffers that are shown
SECONDS = 60  # in which what would help is compiled
_UNITS = ((30, 'GiB'), (20, 'MiB'), (10, 'KiB'))
CGROUP = pathlib.Path('/sys/fs/cgroup/memory.max')


def explained(error: Exhausted, compiles: bool = True) -> OutOfMemory:
    """The error to raise instead; without `compiles` what would help is modelled alone.

    Raises nothing: where it cannot be explained, what is returned has the text of `error`.
    """
    for raised in filter(None, (error, error.__cause__)):
        traceback.clear_frames(raised.__traceback__)  # they hold the state, which takes memory
    try:
        return OutOfMemory('\n'.join(_lines(error.setup, str(error), compiles)))
    except Exception as e:
        why = f'why is not known ({type(e).__name__}: {str(e)[:100]})'
        return OutOfMemory(f'out of memory: {error}\n  {why}')


def _lines(setup: Setup, said: str, compiles: bool) -> list[str]:
    step, compared = setup.programs.made('step'), used_and_there(said)
    takes, unknown = _tried(lambda: total_bytes(step)) if step is not None else (None, '')
    there, in_words = memory_of_device(said)
    kinds, why = _tried(lambda: _kinds(setup, takes))
    wants = takes or (compared[0] if compared else sum((kinds or {}).values()))
    fits = takes is not None and takes < there

    def found() -> list[Remedy]:
        all_found = remedies(setup, takes, SECONDS * compiles, not fits)
        if takes is None and compared:  # the compiler knows better than the model how much it is
            return [r.of(compared[0]) for r in all_found]
        return all_found

    return [
        f'out of memory: the training step wants {size(wants) if wants else "more"} of a device '
        f'that has {in_words}',
        f'  it wants  {_listed(kinds) if kinds else why or unknown}',
        *_beside(wants, there, takes is None, compared[0] if compared else None),
        *_table(
            'the largest buffers at its peak',
            lambda: _rows(buffers_in(said) or _buffers_of(step), _by_shape(setup)),
        ),
        *_table(
            'what would help most, with another --workdir',
            lambda: _help(found(), there),
        ),
        f'  it said: {said.strip().splitlines()[0][:200]}',
    ]


def memory_of_device(said: str = '') -> tuple[int, str]:
    """Bytes, and in words. Of CPU devices it is what the machine lets this process have."""
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
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    there = min(there, limit) if limit != resource.RLIM_INFINITY else there
    share = f'an equal share of {size(there)}' if count > 1 else 'all that this process may have'
    return there // count, f'{size(there // count)} ({share})'


def size(num_bytes: float | int) -> str:
    """'3.14 GiB' or '31.4 MiB'."""
    power, unit = next(((p, u) for p, u in _UNITS if num_bytes >= 2**p), _UNITS[-1])
    number = num_bytes / 2**power
    return f'{number:.3g} {unit}' if number < 1000 else f'{number:,.0f} {unit}'


def _kinds(setup: Setup, takes: int | None) -> dict[str, float | int]:
    """Bytes of a device by what they are; `takes` are those of the compiled step, if it is."""
    state = setup.abstract
    parameters, (optimizer, _) = shard_bytes(state.params), optimizer_bytes(setup)
    frozen = shard_bytes(state.companions)
    kinds: dict[str, float | int] = {'parameters': parameters, 'optimizer': optimizer}
    kinds |= {'companions': frozen} if frozen else {}
    if takes is None and setup.companions:
        return kinds
    gradients = shard_bytes(setup.optimizer.selection.part(state.params))
    if takes is None:
        chips = list(setup.sharding.mesh.devices.flat)
        modelled = analytic_memory(setup.config, chips, setup.data, {})
        rest = modelled.activations + max(modelled.temporaries - gradients, 0)
    else:
        rest = max(takes - parameters - optimizer - frozen - gradients, 0)
    return kinds | {'gradients': gradients, 'activations and temporaries': rest}


def _listed(kinds: Mapping[str, float | int]) -> str:
    return ', '.join(f'{name} {size(n)}' for name, n in kinds.items())


def _beside(wants: float | int, there: int, modelled: bool, other: int | None) -> list[str]:
    """Where the numbers are from, and what else takes memory where the step fits; `other` are the
    bytes of the program that a compiler refused.
    """
    how = ['  by a model of the step, which could not be compiled'] * modelled
    if wants >= there:
        return how
    if other is not None:
        refused = f'another program, such as that of an evaluation, wants {size(other)}'
        return [f'  the step fits: {refused}']
    fits = 'that alone would fit' if modelled else 'the step fits, what runs beside it does not'
    return [
        *how,
        f'  {fits}: look for an evaluation, another process, or on GPUs for what XLA leaves free '
        '(XLA_PYTHON_CLIENT_MEM_FRACTION)',
    ]


def _buffers_of(step: Any) -> list[Buffer]:
    if step is None:
        return []
    text = step.as_text()
    return largest(text, read_program(text))


def _by_shape(setup: Setup) -> dict[str, str]:
    """A parameter of each shape that a device has: '3,704,256]' -> 'backbone/…/weight'."""
    found: dict[str, str] = {}
    for path, leaf in params_lib.flatten(setup.abstract.params).items():
        dims = leaf.sharding.shard_shape(leaf.shape)
        found.setdefault(','.join(map(str, dims)) + ']', path)
    return found


def _whose(b: Buffer, by_shape: Mapping[str, str]) -> str:
    if b.phase and b.layer:
        return f'{b.phase} of {b.layer}'
    like = by_shape.get(b.shape.partition('[')[2], '')
    return b.layer or ' '.join(filter(None, (b.phase, like and f'of the shape of {like}')))


def _rows(buffers: Sequence[Buffer], by_shape: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [
        (
            size(b.num_bytes),
            f'{b.count} × {b.shape}' if b.count > 1 else b.shape,
            _whose(b, by_shape),
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


def _tried(make: Callable[[], Any]) -> tuple[Any, str]:
    """What is made, or None and why it cannot be: a traceback would hide all the rest."""
    try:
        return make(), ''
    except Exception as e:
        return None, f'not known ({type(e).__name__}: {str(e)[:100]})'


def _table(title: str, make: Callable[[], list[tuple[str, ...]]]) -> list[str]:
    """Its lines; where the rows cannot be made, why."""
    rows, why = _tried(make)
    if rows is None:
        return [f'  {title}: {why}']
    if not rows:
        return [f'  {title}: none is known']
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(f'{c:<{w}}' for c, w in zip(row, widths, strict=True)) for row in rows]
    return [f'  {title}', *(f'    {line.rstrip()}' for line in lines)]
