"""Plans against what is known otherwise: counts by hand, the compiler's own memory, a real pod."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.meshes import make_mesh
from bigmodel.planning import analytic, compiled
from bigmodel.planning.collectives import collectives_of
from bigmodel.planning.compiled import compiled_costs, optimizer_bytes, shard_bytes
from bigmodel.planning.costs import Memory
from bigmodel.planning.estimate import by_kind_and_axis, estimate
from bigmodel.planning.planned import check_mesh, planned, prepared
from bigmodel.planning.products import flops_of
from bigmodel.planning.program import Program, read_program
from bigmodel.planning.residuals import trace
from bigmodel.planning.search import search
from bigmodel.planning.topology import parse_topology
from bigmodel.planning.traffic import bytes_of
from bigmodel.training.lowering import abstract_batch, lower_step
from bigmodel.training.outline import outline
from experiments import defaults
from tests.small import SHAPE

MESH = {'data': 2, 'fsdp': 2, 'tensor': 2}


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((2, 2, 2), tuple(MESH), axis_types=(AxisType.Auto,) * 3)


def placed(shape: tuple[int, ...], *axes: str | tuple[str, ...] | None) -> jax.ShapeDtypeStruct:
    place = NamedSharding(mesh(), PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)


def compiled_loop() -> Program:
    """Seven layers of x·W, W gathered over fsdp in each, then a sum over data."""

    def run(w: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ jax.lax.all_gather(w, 'fsdp', tiled=True)), None

        return jax.lax.psum(jax.lax.scan(layer, x, w)[0], 'data')

    specs = PartitionSpec(None, 'fsdp', None), PartitionSpec(('data', 'fsdp'), None)
    mapped = jax.shard_map(
        run, mesh=mesh(), in_specs=specs, out_specs=PartitionSpec('fsdp'), check_vma=False
    )
    w, x = placed((7, 32, 32), *specs[0]), placed((16, 32), *specs[1])
    return read_program(jax.jit(mapped).lower(w, x).compile().as_text())


def test_loops_count_as_often_as_they_run_and_collectives_know_their_axis() -> None:
    program = compiled_loop()
    flops = sum(flops_of(program, c, i) * n for c, i, n in program.executed())
    assert flops == 7 * 2 * (16 // 4) * 32 * 32
    found = {(c.kind, c.axes): c.times * c.num_bytes for c in collectives_of(program, MESH)}
    assert found[('all-gather', ('fsdp',))] == 7 * 32 * 32 * 4 / 2
    assert found[('all-reduce', ('data',))] == 2 * 4 * 32 * 4 / 2


def test_a_product_that_a_tpu_writes_as_a_padded_convolution_counts_no_padding() -> None:
    """Eight heads as a window over a row that is padded with zeros: from a TPU's program."""
    program = read_program("""HloModule m

ENTRY %main (a: bf16[64,16,1], b: bf16[8,16,12]) -> bf16[64,8,12] {
  %a = bf16[64,16,1]{1,0,2} parameter(0)
  %b = bf16[8,16,12]{2,1,0} parameter(1)
  ROOT %c = bf16[64,8,12]{2,0,1:T(8,128)(2,1)S(1)} convolution(%a, %b), \
window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=bf0_0io->b0f
}
""")
    (computation,) = program.computations.values()
    assert flops_of(program, computation, computation.root) == 2 * 64 * 8 * 16 * 12


def test_a_tpus_product_of_groups_counts_each_row_once() -> None:
    """For 4 groups of 64 rows together: the product, and the gradient of the matrices."""
    program = read_program("""HloModule m

ENTRY %main (s: s32[5], x: bf16[64,16], w: bf16[4,16,12], y: bf16[64,12]) -> bf16[4,16,12] {
  %s = s32[5]{0} parameter(0)
  %x = bf16[64,16]{1,0} parameter(1)
  %w = bf16[4,16,12]{2,1,0} parameter(2)
  %y = bf16[64,12]{1,0} parameter(3)
  %ragged-dot-none.1 = bf16[64,12]{1,0} custom-call(%s, %x, %w), \
custom_call_target="tpu_custom_call"
  ROOT %ragged-dot-none = bf16[4,16,12]{2,1,0} custom-call(%s, %x, %y), \
custom_call_target="tpu_custom_call"
}
""")
    flops = sum(flops_of(program, c, i) * n for c, i, n in program.executed())
    assert flops == 2 * (2 * 64 * 16 * 12)


def test_buffers_of_a_collective_in_flight_count_with_the_collective() -> None:
    program = read_program("""HloModule m

%async_collective_fusion.1 (p: bf16[64,16], q: bf16[8,16]) -> (bf16[8,16], bf16[64,16]) {
  %p = bf16[64,16]{1,0} parameter(0)
  %q = bf16[8,16]{1,0} parameter(1)
  %n = bf16[8,16]{1,0} negate(%q)
  ROOT %t = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) tuple(%n, %p)
}

ENTRY %main (a: bf16[64,16], b: bf16[8,16]) -> (bf16[8,16], bf16[64,16]) {
  %a = bf16[64,16]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  ROOT %f = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) fusion(%a, %b), kind=kOutput, \
output_to_operand_aliasing={{1}: (0, {})}, calls=%async_collective_fusion.1
}
""")
    moved = sum(bytes_of(program, c, i) * n for c, i, n in program.executed())
    assert moved == 2 * 2 * 8 * 16


def tiny(**model: object) -> object:
    config = defaults.get_config()
    config.model.update({**SHAPE, 'width': 64, 'depth': 9, 'vocab_size': 256, 'size': 'tiny'})
    config.model.update(model)
    config.data.seq_len, config.data.batch_size = 64, 32
    config.sharding.mesh, config.sharding.rules = 'fsdp=8', 'fsdp'
    return config


@pytest.mark.parametrize(
    ('remat', 'mesh', 'rules', 'kernel'),
    [
        ('none', 'fsdp=8', 'fsdp', 'blockwise'),
        ('full', 'fsdp=8', 'fsdp', 'blockwise'),
        ('none', 'fsdp=2,context=2,tensor=2', 'fsdp_context_sequence', 'ring'),
        ('full', 'pipeline=2,fsdp=4', 'pipeline_zero1', 'blockwise'),
    ],
)
def test_the_modelled_memory_is_near_that_of_the_executable(
    remat: str, mesh: str, rules: str, kernel: str
) -> None:
    """Parameters and optimizer state exactly; all memory to 35 %: XLA reuses and copies buffers."""
    topology = parse_topology('h100:8x1')
    config = tiny(remat=remat, kernel=kernel, dtype='float32', depth=8)
    config.sharding.mesh, config.sharding.rules = mesh, rules
    config = prepared(config, topology)
    plan = outline(config, chips=jax.devices())
    with plan.sharding.active():
        executable = lower_step(plan, plan.task, abstract_batch(plan)).compile()
    real = compiled.costs_of(plan, executable, executable.as_text(), topology).memory
    _, modelled = analytic.analytic_costs(config, topology)
    state = executable.memory_analysis().argument_size_in_bytes
    assert modelled.memory.parameters == real.parameters == shard_bytes(plan.abstract.params)
    assert modelled.memory.optimizer == real.optimizer < state
    print(remat, modelled.memory, real)
    assert modelled.memory.total == pytest.approx(real.total, rel=0.35)


def test_the_modelled_memory_knows_of_logits_in_chunks() -> None:
    """Of 256 tokens a chip: float32, and a gradient in bfloat16; that of the weight in float32."""
    topology = parse_topology('h100:8x1')

    def temporaries(head: str) -> float:
        config = prepared(tiny(head=head, kernel='blockwise', depth=1), topology)
        return analytic.analytic_costs(config, topology)[1].memory.temporaries

    saved = temporaries('lm') - temporaries('lm(chunk=64)')
    assert saved == pytest.approx(6 * (256 - 64) * 256 - 4 * 64 * 256)


def test_the_modelled_flops_are_those_of_the_formula_without_recomputation() -> None:
    topology = parse_topology('h100:8x1')
    found = planned(tiny(kernel='reference'), topology)
    each = found.costs.flops * 8 / found.plan.tokens_per_step
    assert each == pytest.approx(found.plan.flops_per_token, rel=0.02)
    assert 0 < found.estimate.mfu <= 1


def test_split_rows_are_modelled_as_the_part_that_a_device_has() -> None:
    """All devices together compute as much as without; keys and values go round."""
    topology, mesh = parse_topology('h100:8x1'), 'fsdp=2,context=2,tensor=2'
    whole = planned(tiny(kernel='blockwise'), topology).costs
    config = tiny(kernel='ring')
    config.sharding.mesh, config.sharding.rules = mesh, 'fsdp_context_sequence'
    parts = planned(config, topology).costs
    assert parts.flops == pytest.approx(whole.flops, rel=0.02)
    sent = by_kind_and_axis(parts.collectives)
    # 9 layers × 2 turns; keys and values of 16 rows × 32 tokens × 16 numbers in bfloat16, then
    # again beside their gradients in float32.
    passes = 2 + (2 + 4)
    assert sent['collective-permute', 'context'][1] == 9 * 2 * 2 * 16 * 32 * 16 * passes
    assert sent['reduce-scatter', 'tensor'] == sent['all-gather', 'tensor']


def test_products_of_int8_count_at_their_own_peak() -> None:
    """Those of the layers for values and for gradients of inputs, two thirds; by the model, and
    from a program.
    """
    pytest.importorskip('qwix')
    topology = parse_topology('h100:8x1')
    full, int8 = (planned(tiny(kernel='reference', matmul=m), topology) for m in ('full', 'int8'))
    assert int8.costs.flops == full.costs.flops and full.costs.int8_flops == 0
    assert 0.4 < int8.costs.int8_flops / int8.costs.flops < 2 / 3
    chip = topology.chip
    saved = int8.costs.int8_flops * (1 / chip.flops - 1 / chip.int8)
    assert full.estimate.compute - int8.estimate.compute == pytest.approx(saved)
    program = read_program("""HloModule m

ENTRY %main (a: s8[64,16], b: s8[16,12]) -> s32[64,12] {
  %a = s8[64,16]{1,0} parameter(0)
  %b = s8[16,12]{1,0} parameter(1)
  ROOT %c = s32[64,12]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
""")
    (computation,) = program.computations.values()
    found = [flops_of(program, computation, computation.root, of) for of in ('', 's8', 'bf16')]
    assert found == [2 * 64 * 16 * 12, 2 * 64 * 16 * 12, 0]


def test_a_batch_without_data_is_what_data_would_give() -> None:
    config = prepared(tiny(), parse_topology('h100:8x1'))
    batch = abstract_batch(outline(config, chips=jax.devices()))
    assert {k: v.shape for k, v in batch.items()} == dict.fromkeys(
        ('tokens', 'segments', 'positions'), (32, 65)
    )


def test_search_ranks_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('bigmodel.planning.search.TENSOR', (1, 2))
    monkeypatch.setattr('bigmodel.planning.search.REMATS', ('none',))
    monkeypatch.setattr('bigmodel.planning.search.BATCHES', (1.0,))
    config = tiny(num_heads=8, num_kv_heads=8)
    found, _ = search(config, parse_topology('h100:8x1'))
    speeds = [p.estimate.tokens_per_second for p in found]
    assert speeds == sorted(speeds, reverse=True) and all(p.fits for p in found)
    assert len({p.plan.config.sharding.mesh for p in found}) > 1


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--topology=v5p:3x5x7'], 'and other multiples of 4 up to 16x20x28'),
        (['--topology=v9:4x4'], 'Choices: a100'),
        (['--topology=h100:9x4'], '8 GPUs a node'),
        (['--topology=h100:8x4', '--mesh=fsdp=16'], 'multiplies to 16 devices, h100:8x4 has 32'),
        (['--topology=h100:8x4', '--mesh=fsdp=32', '--rules=fsdp'], "'embed' of size 144"),
        (['--topology=h100:8x4', '--mesh=fsdp=32', '--rules=fsdp'], '(128 or 160), or a'),
        ([], '--topology=KIND:SHAPE'),
    ],
)
def test_bad_input_says_the_fix(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ['--config.model.width=144', '--config.model.num_heads=4']
    overrides += ['--config.model.vocab_size=320', '--config.data.batch_size=64']
    assert main(['plan', '--config=experiments/defaults.py', *overrides, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_mesh_with_a_rest_is_left_to_be_filled() -> None:
    check_mesh('fsdp=-1,tensor=2', parse_topology('v5e:4x4'))
    with pytest.raises(UserError, match='multiplies to 8'):
        check_mesh('fsdp=8', parse_topology('v5e:4x4'))


def test_the_model_follows_dtypes_and_what_waits_on_the_host() -> None:
    topology = parse_topology('h100:8x1')

    def memory(model: dict | None = None, **optimizer: object) -> Memory:
        plain = {'kernel': 'blockwise', 'dtype': 'float32', 'remat': 'full'}
        config = tiny(**plain | (model or {}))
        config.optimizer.update(optimizer)
        return planned(config, topology).costs.memory

    plain, lean = memory(), memory({'param_dtype': 'bfloat16'}, state_dtype='bfloat16')
    # Vectors stay float32.
    assert lean.parameters == pytest.approx(plain.parameters / 2, rel=0.05)
    assert lean.optimizer == pytest.approx(plain.optimizer / 2, rel=0.01) and plain.host == 0
    away = memory({'remat': 'offload'}, offload=True)
    stream = 9 * (32 // 8) * 64 * 64 * 4
    assert away.optimizer < 100 and away.host == plain.optimizer - away.optimizer + stream
    assert plain.activations - away.activations == stream


def test_what_a_compiler_says_of_memory_is_told() -> None:
    e = RuntimeError(
        'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
        'required for HLO temporaries (288.00G) exceeds available HBM (95.73G). HLO module: jit_f.'
    )
    refused = compiled.refused(e, parse_topology('v5p:4x8x8'))
    assert ': 288.0 of 95.7 GiB; set' in str(refused)


def test_arms_that_do_not_fit_are_listed_below_those_that_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(config: object, topology: object, analytic: bool) -> object:
        if config.model.remat == 'none':
            raise compiled.DoesNotFit('it does not fit TPU v5p')
        return made[config.optimizer.offload]

    made = {}
    for offload in (False, True):
        config = tiny()
        config.optimizer.offload = offload
        made[offload] = planned(config, parse_topology('h100:8x1'))
    monkeypatch.setattr('bigmodel.planning.planned.planned', plan)
    card = '--config=experiments/ablations/memory.py'
    assert main(['plan', card, '--sweep', '--topology=v5p:2x2x1']) == 1
    head, *lines = capsys.readouterr().out.splitlines()
    assert 'on host' in head and len(lines) == 12
    assert lines[-1].split()[:2] == ['none', 'it'] and lines[0].startswith('dots_no_batch')


def test_axes_between_nodes_of_gpus_are_planned() -> None:
    config = tiny(depth=2)
    config.sharding.mesh, config.sharding.rules = 'dcn_pipeline=2,data=2', 'pipeline'
    plan = planned(config, parse_topology('h100:2x2')).plan
    hosts = np.vectorize(lambda d: d.process_index)(plan.sharding.mesh.devices)
    axis = plan.sharding.mesh.axis_names.index('pipeline')
    assert [set(h.flat) for h in np.moveaxis(hosts, axis, 0)] == [{0}, {1}]
    # Of an explanation they are those of the run, here two slices of TPUs with a host each.
    tpus = [analytic.Imagined(i, 'tpu', i // 2, i // 2) for i in range(4)]
    assert [analytic._alike(i, chip) for i, chip in enumerate(tpus)] == tpus
    mesh = make_mesh('dcn_data=2,fsdp=2', tpus)
    assert [d.id for d in mesh.devices.flat] == [0, 1, 2, 3]


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs `pip install libtpu`')
def test_a_tpus_compiler_puts_on_the_host_what_policies_say() -> None:
    topology = parse_topology('v5e:2x4')
    shape = {'depth': 3, 'width': 512, 'num_heads': 4, 'num_kv_heads': 4, 'head_dim': 128}
    config = tiny(dtype='bfloat16', remat='offload', kernel='reference', **shape)
    config.optimizer.offload = True
    plan, costs = compiled_costs(prepared(config, topology), topology)
    _, moments = optimizer_bytes(plan)
    stream = 3 * (32 // 8) * 64 * 512 * 2
    # Small moments are padded to tiles.
    assert moments + stream <= costs.memory.host == pytest.approx(moments + stream, rel=0.1)
    assert costs.memory.optimizer < 100


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs `pip install libtpu`')
def test_a_step_is_compiled_for_chips_that_are_not_there() -> None:
    topology = parse_topology('v5e:2x4')
    # As wide as makes the attention kernel's part, which has rows of 64 in blocks of 128, small.
    shape = {'width': 512, 'num_heads': 4, 'num_kv_heads': 4, 'head_dim': 128}
    config = prepared(tiny(depth=9, dtype='bfloat16', **shape), topology)
    plan, costs = compiled_costs(config, topology)
    found = estimate(costs, topology, dict(plan.sharding.mesh.shape), plan.tokens_per_step, 1)
    one = analytic._of_one_device(plan)
    traced = trace(outline(one, chips=[analytic.Imagined(0, 'cpu')]))
    products = sum(p.flops * p.times for p in traced.products if not p.is_attention)
    assert costs.flops == pytest.approx(products, rel=0.3)
    assert {c.axes for c in costs.collectives} == {('fsdp',)}
    assert found.step > 0 and math.isfinite(found.mfu) and np.all(costs.num_bytes > 0)
