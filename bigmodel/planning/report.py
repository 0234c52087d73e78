"""A plan in lines."""

from bigmodel.planning.costs import Costs
from bigmodel.planning.estimate import Estimate, by_kind_and_axis
from bigmodel.planning.topology import Topology
from bigmodel.quantities import COUNTS, short
from bigmodel.training.fit import check_stages
from bigmodel.training.outline import Outline

GIB = 2**30


def report(plan: Outline, topology: Topology, costs: Costs, found: Estimate) -> list[str]:
    """Everything that `plan` prints of one config."""
    return [
        *_what(plan, topology, costs),
        *_memory(costs, topology),
        *_work(costs, topology),
        *_time(plan, topology, found),
    ]


def _what(plan: Outline, topology: Topology, costs: Costs) -> list[str]:
    config, mesh = plan.config, plan.sharding.mesh.shape
    stages = check_stages(config, plan.sharding)
    axes = ', '.join(f'{a}={n}' for a, n in mesh.items() if n > 1) or 'one device'
    how = (
        f'compiled in {costs.compile_seconds:.0f} s'
        if costs.how == 'compiled'
        else 'analytic model'
    )
    return [
        f'{config.model.size} on {topology.name}: {topology.num_chips:,} × {topology.chip.kind}, '
        f'mesh {axes}, rules {config.sharding.rules} ({how})',
        f'parameters   {short(plan.sizes.num_params, COUNTS)}; kernel {plan.kernel}, '
        f'remat {config.model.remat}, {config.optimizer.name}',
        f'batch        {config.data.batch_size:,} rows of {config.data.seq_len:,} = '
        f'{short(plan.tokens_per_step, COUNTS)} tokens, {config.accumulate} microbatches'
        + (f', each a pipeline of {stages}' if stages else ''),
    ]


def _memory(costs: Costs, topology: Topology) -> list[str]:
    memory, hbm = costs.memory, topology.chip.memory
    fits = 'fits' if memory.total <= hbm else 'DOES NOT FIT'
    return [
        f'memory/chip  {memory.total / GIB:.2f} of {hbm / GIB:.1f} GiB ({fits}): '
        f'parameters {memory.parameters / GIB:.2f}, optimizer {memory.optimizer / GIB:.2f}, '
        f'activations {memory.activations / GIB:.2f}, temporaries {memory.temporaries / GIB:.2f}'
        + f'; on its host {memory.host / GIB:.2f}'
        * bool(memory.host)
    ]


def _work(costs: Costs, topology: Topology) -> list[str]:
    int8 = f' (int8 {short(costs.int8_flops, unit="FLOP")})' if costs.int8_flops else ''
    lines = [
        f'work/chip    {short(costs.flops, unit="FLOP")}{int8}, {short(costs.num_bytes, unit="B")} '
        'through its memory a step'
    ]
    for (kind, axes), (count, size) in by_kind_and_axis(costs.collectives).items():
        lines.append(
            f'  {kind:<18} over {axes:<12} {count:>6,.0f} times  {short(size, unit="B"):>8}'
        )
    return lines


def _time(plan: Outline, topology: Topology, e: Estimate) -> list[str]:
    steps, tokens = plan.config.num_steps, plan.tokens_per_step
    days = steps * e.step / 86400
    chip_hours = days * 24 * topology.num_chips
    return [
        f'roofline     step {e.step:.3g} s: compute {e.compute:.3g}, memory {e.memory:.3g}, '
        f'collectives {e.network:.3g} of which {e.exposed:.3g} exposed; bound by {e.bound}',
        f'speed        {e.tokens_per_second:,.0f} tokens/s/chip, '
        f'{short(e.tokens_per_second * topology.num_chips)} tokens/s, MFU {100 * e.mfu:.1f} %',
        f'run          {short(steps * tokens, COUNTS)} tokens in {steps:,} steps: '
        f'{days:.3g} days, {chip_hours:,.0f} chip-hours',
    ]
