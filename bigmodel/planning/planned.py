"""A config on a topology: prepared for planning, then compiled or modelled."""

import dataclasses
import math

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.planning.analytic import analytic_costs
from bigmodel.planning.compiled import compiled_costs
from bigmodel.planning.costs import Costs
from bigmodel.planning.estimate import Estimate, estimate
from bigmodel.planning.residuals import Traced
from bigmodel.planning.topology import Topology
from bigmodel.training.outline import Outline, resolve


@dataclasses.dataclass(frozen=True)
class Planned:
    """What is known of a config on a topology."""

    plan: Outline
    topology: Topology
    costs: Costs
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether it fits the chips' memory."""
        return self.costs.memory.total <= self.topology.chip.memory


def planned(
    config: ConfigDict,
    topology: Topology,
    analytic: bool = False,
    traces: dict[str, Traced] | None = None,
) -> Planned:
    """The plan of a config (not resolved) on these chips; GPUs are always modelled.

    `traces` is what models of similar configs share. Raises UserError for a config that cannot run
    there.
    """
    config = prepared(config, topology)
    if topology.is_tpu and not analytic:
        plan, costs = compiled_costs(config, topology)
    else:
        plan, costs = analytic_costs(config, topology, traces)
    mesh = dict(plan.sharding.mesh.shape)
    tokens, flops = plan.tokens_per_step, plan.flops_per_token
    return Planned(plan, topology, costs, estimate(costs, topology, mesh, tokens, flops))


def prepared(config: ConfigDict, topology: Topology) -> ConfigDict:
    """The config resolved as it is planned: layers in one loop, and where `model.kernel` is `auto`
    `ring` for rows that rules split, else `splash` on a TPU. For GPUs `blockwise` stands for their
    fused kernels, which cannot be traced without one. Raises UserError for another mesh.
    """
    config = resolve(config)
    config.model.unroll = config.model.unroll or 1
    if config.model.kernel == 'auto' and 'context' in config.sharding.rules.split('_'):
        config.model.kernel = 'ring'
    elif topology.is_tpu and config.model.kernel == 'auto':
        config.model.kernel = 'splash'
    elif not topology.is_tpu and config.model.kernel in ('auto', 'fused', 'cudnn'):
        config.model.kernel = 'blockwise'
    check_mesh(config.sharding.mesh, topology)
    return config


def check_mesh(mesh: str, topology: Topology) -> None:
    """Raises UserError when the mesh has not as many devices as the topology."""
    sizes = [part.partition('=')[2] for part in mesh.replace(' ', '').split(',') if part]
    if '-1' in sizes or not all(s.isdecimal() for s in sizes):
        return  # what is left, or what make_sharding will refuse
    count, there = math.prod(map(int, sizes)), topology.num_devices
    if count != there:
        raise UserError(
            f'sharding.mesh={mesh!r} multiplies to {count:,} devices, {topology.name} has '
            f'{there:,}; give one axis -1 for the rest, such as fsdp=-1'
        )
