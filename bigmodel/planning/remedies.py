"""Changes of a config that take less memory, with what each saves."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from bigmodel import hosts
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.build import compute_dtype
from bigmodel.planning.analytic import analytic_memory
from bigmodel.planning.residuals import Traced
from bigmodel.training.compilation import compilation
from bigmodel.training.exhausted import is_of_memory
from bigmodel.training.lowering import abstract_batch, lower_step
from bigmodel.training.outline import outline
from bigmodel.training.setup import Setup

TOLD, TRIED = 3, 5  # so many are told, of so many that are compiled
SAME = 'the numbers stay'


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Changed keys, the bytes of a device that the step then takes and so saves, and what else they
    do. `compiled`: read from the compiled step, not from a model of it.
    """

    changes: Mapping[str, Any]
    takes: float | int
    saves: float | int
    effect: str
    compiled: bool = False

    @property
    def flags(self) -> str:
        """As they are given to `launch.py`."""
        return ' '.join(f'--config.{key}={value}' for key, value in self.changes.items())

    def of(self, total: float | int) -> 'Remedy':
        """Of a step that takes `total` bytes, not what the model says, the same part."""
        part = self.takes / max(self.takes + self.saves, 1)
        return dataclasses.replace(self, takes=total * part, saves=total * (1 - part))


def remedies(
    setup: Setup, takes: float | int | None, seconds: float | int, of_step: bool = True
) -> list[Remedy]:
    """The changes that save the most, the best first; `takes` are the bytes of the compiled step,
    None where it cannot be compiled. Without `of_step` those that change only the step are left
    out, as the memory is short elsewhere.

    All are modelled (analytic.py), and the best compiled, as many as are likely to be within
    `seconds`. Several hosts compile none: they would have to do it together.
    """
    if setup.companions:  # which the model does not know
        found = [Remedy(changes, 0, 0, effect) for changes, effect in candidates(setup, of_step)]
    else:
        found = sorted(_modelled(setup, of_step), key=lambda r: -r.saves)[:TRIED]
    if takes is not None and hosts.count() == 1:
        found = list(_compiled(setup, found, takes, seconds))
    helps = [r for r in found if r.saves > 0]
    # What is only modelled comes last, and where nothing can be compiled by what it saves.
    return sorted(helps, key=lambda r: (not r.compiled, -r.saves))[:TOLD]


def candidates(setup: Setup, of_step: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes that the run may do with, and what else they do; `of_step`: the step alone too."""
    config, mesh = setup.config, setup.sharding.mesh
    rows, ways = config.data.batch_size, setup.sharding.batch_ways * config.accumulate
    if of_step and config.model.remat != 'full':
        yield {'model.remat': 'full'}, f'{SAME}, a step computes its forward pass twice'
    if of_step and rows % (2 * ways) == 0:
        yield {'accumulate': 2 * config.accumulate}, f'{SAME}, products have half of the rows'
    if rows % (2 * ways) == 0:
        yield {'data.batch_size': rows // 2}, 'another run, of half of the tokens a step'
    if setup.kernel == 'reference':
        yield {'model.kernel': 'blockwise'}, SAME
    if compute_dtype(config.model.dtype, setup.platform) == 'float32':
        yield {'model.dtype': 'bfloat16'}, 'products round more coarsely'
    if mesh.size > 1 and config.sharding.rules == 'dp' and not setup.companions:
        for rules in ('zero1', 'fsdp'):
            split = {'sharding.rules': rules, 'sharding.mesh': f'fsdp={mesh.size}'}
            yield split, f'{SAME}, devices send each other more'
    elif config.sharding.rules in ('zero1', 'zero2'):
        yield {'sharding.rules': 'fsdp'}, f'{SAME}, devices send each other more'


def total_bytes(executable: Any) -> int:
    """What a compiled step takes of a device: arguments, temporaries, and results beside them."""
    stats = executable.memory_analysis()
    new = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    total = stats.argument_size_in_bytes + stats.temp_size_in_bytes + new
    return total + stats.generated_code_size_in_bytes


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with other values."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(changes))
    return config


def _modelled(setup: Setup, of_step: bool) -> Iterator[Remedy]:
    chips, traces = list(setup.sharding.mesh.devices.flat), dict[str, Traced]()
    now = analytic_memory(setup.config, chips, setup.data, traces).total
    for changes, effect in candidates(setup, of_step):
        config = changed(setup.config, changes)
        try:
            takes = analytic_memory(config, chips, setup.data, traces).total
        except UserError:  # it does not fit the rest of the config
            continue
        yield Remedy(changes, takes, now - takes, effect)


def _compiled(
    setup: Setup, found: list[Remedy], takes: float | int, seconds: float | int
) -> Iterator[Remedy]:
    """Those that there is no time for save the part of `takes` that they do by the model."""
    began, longest = time.monotonic(), compilation().seconds
    for one in found:
        start = time.monotonic()
        remedy = one.of(takes)
        if start - began + longest > seconds:
            yield remedy
            continue
        try:
            then = total_bytes(_compile(setup, changed(setup.config, remedy.changes)))
        except UserError:
            continue
        except jax.errors.JaxRuntimeError as e:
            if not is_of_memory(e):
                raise
            yield remedy  # too much still
        else:
            yield Remedy(remedy.changes, then, takes - then, remedy.effect, True)
        longest = time.monotonic() - start


def _compile(setup: Setup, config: ConfigDict) -> Any:
    plan = outline(config, setup.data)
    abstract = plan.abstract.replace(companions=setup.abstract.companions)
    plan = dataclasses.replace(plan, abstract=abstract)
    with plan.sharding.active():
        batch = abstract_batch(plan, setup.data)
        return lower_step(plan, plan.task, batch, setup.companion_models).compile()
