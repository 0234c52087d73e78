"""Meshes, recomputation and batch sizes of a config, modelled and ranked."""

import itertools
from collections.abc import Iterator

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.planning.estimate import Estimate
from bigmodel.planning.planned import Planned, planned
from bigmodel.planning.residuals import Traced
from bigmodel.planning.topology import Topology

REMATS = ('none', 'dots_no_batch', 'full')
TENSOR = (1, 2, 4, 8)
# Times the config's own batch.
BATCHES = (0.5, 1.0, 2.0)
GIB = 2**30


def candidates(config: ConfigDict, topology: Topology) -> Iterator[ConfigDict]:
    """The config with every mesh, policy and batch size that is tried."""
    for tensor, remat, times in itertools.product(TENSOR, REMATS, BATCHES):
        ways = topology.num_devices // tensor
        rows = round(config.data.batch_size * times)
        if topology.num_devices % tensor or not rows:
            continue
        mesh = f'fsdp={ways}' if tensor == 1 else f'fsdp={ways},tensor={tensor}'
        rules = 'fsdp' if tensor == 1 else 'fsdp_sequence'
        tried = config.copy_and_resolve_references()
        tried.num_steps = max(1, round(config.num_steps * config.data.batch_size / rows))
        tried.data.batch_size, tried.model.remat = rows, remat
        tried.sharding.mesh, tried.sharding.rules = mesh, rules
        tried.sharding.pipeline = 'gpipe'
        yield tried


def search(config: ConfigDict, topology: Topology) -> tuple[list[Planned], str]:
    """Those that fit by the model, fastest first, and why the last refused one cannot run.

    The length of the run stays the same in tokens. Raises UserError where none fits.
    """
    traces: dict[str, Traced] = {}
    found, refused, smallest = [], '', None
    for tried in candidates(config, topology):
        try:
            made = planned(tried, topology, analytic=True, traces=traces)
        except UserError as e:
            refused = str(e)
            continue
        if made.fits:
            found.append(made)
        elif smallest is None or made.costs.memory.total < smallest:
            smallest = made.costs.memory.total
    if not found:
        needs = f'; the smallest needs {smallest / GIB:.1f} GiB a chip' if smallest else ''
        raise UserError(
            f'nothing fits {topology.name} with {topology.chip.memory / GIB:.1f} GiB a chip{needs}'
            f'{f"; refused: {refused}" if refused else ""}. Take more chips, or a smaller batch'
        )
    return sorted(found, key=lambda p: -p.estimate.tokens_per_second), refused


def table(found: list[Planned]) -> list[str]:
    """A line each; what is on hosts has a column where there is anything."""
    rows = [('mesh', 'remat', 'rows', 'GiB/chip', 'step s', 'tokens/s/chip', 'MFU %', 'bound by')]
    host = any(p.costs.memory.host for p in found)
    if host:
        rows = [(*row[:4], 'on host', *row[4:]) for row in rows]
    for p in found:
        e: Estimate = p.estimate
        config = p.plan.config
        rows.append(
            (
                config.sharding.mesh,
                config.model.remat,
                f'{config.data.batch_size:,}',
                f'{p.costs.memory.total / GIB:.1f}',
                *[f'{p.costs.memory.host / GIB:.1f}'] * host,
                f'{e.step:.3g}',
                f'{e.tokens_per_second:,.0f}',
                f'{100 * e.mfu:.1f}',
                e.bound,
            )
        )
    return aligned(rows)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest entry."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        '  '.join(f'{entry:<{width}}' for entry, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
