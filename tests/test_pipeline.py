"""Layers as stages of a pipeline: exact, idle as long as it says, without copies of weights."""

import functools
import math
import pathlib
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.models.decoding import greedy
from bigmodel.models.model import apply, apply_with_losses
from bigmodel.pipelines import Plan
from bigmodel.planning.collectives import collectives_of
from bigmodel.planning.products import flops_of
from bigmodel.planning.program import read_program
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.training import companions
from bigmodel.training.fit import check_stages
from bigmodel.training.placement import described
from bigmodel.training.writers import read_jsonl
from tests.collectives import collectives
from tests.small import (
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    small_config,
    small_model,
)
from tests.test_parallelism import LENGTH, ROWS, Step, held, step
from tests.test_sharding import T5, Run, train

DEPTH = 4
CIRCULAR = 'circular(repeats=2, microbatches=4)'


def pipe(mesh: str, rules: str = 'pipeline', pipeline: str = 'gpipe') -> Sharding:
    """A mesh of as many devices as its axes multiply to."""
    count = math.prod(map(int, re.findall(r'=(\d+)', mesh)))
    return make_sharding(mesh, rules, jax.devices()[:count], pipeline)


@functools.cache
def one_device(**model: Any) -> Step:
    return step(make_sharding('', 'dp', jax.devices()[:1]), depth=DEPTH, **model)


# Each with the part of a model that it is the test of.
MESHES: dict[str, tuple[Sharding, dict[str, Any]]] = {
    'four stages': (pipe('pipeline=4'), {'remat': 'full'}),
    'circular': (pipe('pipeline=2,data=2', pipeline=CIRCULAR), {'remat': 'dots'}),
    'a pattern': (pipe('pipeline=2'), {'pattern': ('window(3)', 'causal'), 'position': 't5'}),
    'slow links': (
        pipe('dcn_pipeline=2,data=2,tensor=2', 'pipeline_tensor', CIRCULAR),
        {'mixer': 'value_residual', 'remat': 'full'},  # what layers hand on travels too
    ),
}


@pytest.mark.parametrize('name', MESHES)
def test_loss_and_gradients_are_those_of_one_device(name: str) -> None:
    """Of packed rows; and nothing is moved but activations, by a stage, and weights of a pass."""
    sharding, model = MESHES[name]
    got, want = step(sharding, depth=DEPTH, **model), one_device(**model)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)
    for call in collectives(got.hlo, sharding.mesh):
        if call.kind == 'all-gather' and call.axes != ('tensor',):
            assert all(dtype == 's32' for dtype, _ in call.arrays)  # places and documents
        if call.kind == 'all-to-all':
            assert call.axes == ('pipeline',) and sharding.pipeline.repeats > 1
            assert not any(math.prod(shape) % 3 == 0 for _, shape in call.arrays)


def sent(run: Step, sharding: Sharding) -> dict[tuple[str, str], tuple[float, float]]:
    """How often, and how many bytes, by kind and axes."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for c in collectives_of(read_program(run.hlo), dict(sharding.mesh.shape)):
        key = (c.kind, '×'.join(c.axes))
        times, size = found.get(key, (0.0, 0.0))
        found[key] = (times + c.times, size + c.times * c.num_bytes)
    return found


@functools.cache
def two_by_two() -> tuple[Sharding, Step]:
    sharding = pipe('pipeline=2,data=2')
    return sharding, step(sharding, depth=DEPTH)


def test_each_tick_sends_a_microbatch_and_gradients_are_summed_once_a_step() -> None:
    sharding, run = two_by_two()
    plan = sharding.plan(ROWS, DEPTH)
    assert plan == Plan(2, 1, 4)
    found = sent(run, sharding)
    # Forward and back: what enters, what goes from stage to stage, what leaves.
    times, size = found['collective-permute', 'pipeline']
    rows = ROWS // plan.microbatches // 2
    assert times == 6 * plan.ticks
    assert size == times * rows * LENGTH * 16 * 4
    moments = run.moments['backbone']['layers']
    stacked = sum(4 * x.size for x in jax.tree.leaves(moments))
    times, size = found['all-reduce', 'data']
    assert times == 1
    assert size == stacked / 2  # of a stage; a ring of two sends all of it


def test_the_bubble_is_in_the_program() -> None:
    """A stage computes for all ticks; other devices would for the microbatches alone."""
    sharding, run = two_by_two()
    plan = sharding.plan(ROWS, DEPTH)
    whole = step(pipe('data=4', 'dp'), depth=DEPTH)

    def flops(run: Step) -> float:
        program = read_program(run.hlo)
        return sum(flops_of(program, c, i) * times for c, i, times in program.executed())

    head = 3 * 2 * ROWS // 4 * LENGTH * 16 * 32
    assert (flops(run) - head) / (flops(whole) - head) == pytest.approx(5 / 4, rel=1e-6)
    assert plan.bubble == pytest.approx(1 - 4 / 5)


def test_no_tick_keeps_weights() -> None:
    """Stacked over ticks, the weights that each uses would fill the memory."""
    for pipeline, ticks in (('gpipe', 5), ('circular', 9)):
        run = step(pipe('pipeline=2', pipeline=pipeline), depth=2 * DEPTH, remat='none', width=32)
        stacked = set(re.findall(rf'f32\[{ticks},([\d,]+)\]', run.hlo))
        assert any(shape.endswith(f'{LENGTH},32') for shape in stacked)
        assert not any(shape.endswith(('32,128', '128,32')) for shape in stacked), pipeline


def test_what_layers_add_to_the_loss_is_the_mean_over_microbatches() -> None:
    """The balance of experts in a microbatch is not that in the batch: as with `accumulate`."""
    model = small_model(LENGTH, depth=DEPTH, ffn='switch(experts=4, capacity=0.8)')
    params, tokens = random_params(model), jnp.asarray(random_tokens(ROWS, LENGTH))

    def total(params: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        logits, losses, reports = apply_with_losses(model, params, tokens)
        return jnp.mean(logits**2) + sum(losses.values()), (losses, reports)

    find = quick_jit(jax.value_and_grad(total, has_aux=True))
    # Two data ways have both halves of what a stage brings.
    for mesh, pipeline, rows in (
        ('pipeline=4', 'gpipe(4)', ((0, 1), (2, 3), (4, 5), (6, 7))),
        ('pipeline=2,data=2', CIRCULAR, ((0, 2), (1, 3), (4, 6), (5, 7))),
    ):
        parts = [find(params, tokens[jnp.array(few)]) for few in rows]
        want = jax.tree.map(lambda *x: sum(x) / len(x), *parts)
        with pipe(mesh, pipeline=pipeline).active():
            got = quick_jit(jax.value_and_grad(total, has_aux=True))(params, tokens)
        assert got[0][1][1]['dropped'] > 0
        assert_trees_close(got, want, rtol=1e-4, atol=2e-6)


def test_dropout_differs_by_layer_and_row_but_not_by_stages() -> None:
    model = small_model(LENGTH, depth=DEPTH, dropout=0.3, block='prenorm(drop=0.2)')
    params = random_params(model)
    tokens = jnp.tile(jnp.asarray(random_tokens(1, LENGTH)), (ROWS, 1))
    found = []
    for mesh, pipeline in (
        ('pipeline=2', 'gpipe(4)'),
        ('pipeline=4', 'gpipe(4)'),
        ('pipeline=2,data=2', 'circular(microbatches=2)'),
    ):
        with pipe(mesh, pipeline=pipeline).active():
            run = quick_jit(lambda p, t, key: apply(model, p, t, dropout_key=key))
            found.append(np.asarray(run(params, tokens, jax.random.key(0))))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)
    rows = found[0].reshape(ROWS, -1)
    assert all(np.abs(rows[i] - rows[j]).max() > 0.1 for i in range(ROWS) for j in range(i))


def test_encoders_and_decoders_are_pipelines() -> None:
    """The encoder's output travels with the rows that read it."""

    def run(sharding: Sharding) -> Run:
        return train(sharding, **T5)

    got, want = run(pipe('pipeline=2,data=2')), run(make_sharding('', 'dp', jax.devices()[:1]))
    np.testing.assert_allclose(got.losses, want.losses, rtol=2e-5)
    assert_trees_close(got.params, want.params, rtol=1e-4, atol=5e-5)


def test_decoding_runs_all_layers() -> None:
    model = small_model(LENGTH)
    params, prompts = random_params(model), jnp.asarray(random_tokens(4, 3))
    lengths = jnp.full(4, 3)
    want = quick_jit(lambda p, x: greedy(model, p, x, lengths, 4, 3))(params, prompts)
    with pipe('pipeline=2,data=2').active():
        got = quick_jit(lambda p, x: greedy(model, p, x, lengths, 4, 3))(params, prompts)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('repeats', [1, 2, 4])
@pytest.mark.parametrize('stages', [2, 4])
@pytest.mark.parametrize('groups', [1, 3])
def test_plans(stages: int, repeats: int, groups: int) -> None:
    """Every stage has every microbatch once a pass, a tick after the stage before it."""
    plan = Plan(stages, repeats, groups * stages)
    when = {plan.place(turn): turn for turn in range(plan.turns)}
    assert set(when) == {(r, m) for r in range(repeats) for m in range(plan.microbatches)}
    for (repeat, microbatch), turn in when.items():
        if repeat:  # it comes from the last stage
            assert turn == when[repeat - 1, microbatch] + stages
    assert plan.ticks == plan.turns + stages - 1
    assert plan.bubble == pytest.approx((stages - 1) / (groups * stages * repeats + stages - 1))


def test_the_plan_is_said() -> None:
    state, _ = held('fsdp')
    sharding = pipe('pipeline=4', pipeline='circular(repeats=2)')
    text = described(state, sharding, sharding.plan(16, 8))
    assert text.endswith('pipeline: 4 stages, 8 microbatches × 2 passes, 15.8 % bubble')


MISTAKES = {
    'no axis': ({'mesh': 'data=-1', 'rules': 'pipeline'}, 'no axis pipeline of 2 or more; write'),
    'no rule': ({'mesh': 'pipeline=2', 'rules': 'dp'}, "'dp' place nothing on axis 'pipeline'"),
    'only a schedule': (
        {'mesh': 'data=-1', 'rules': 'dp', 'pipeline': 'circular'},
        r"pipeline='circular' is of stages",
    ),
    'depth': ({'depth': 6}, '6 layers .* cannot be split into 4 stages .* that 4 divides'),
    'pattern': ({'pattern': ('causal',) * 4}, '2 layers .or repetitions of model.pattern'),
    'repeats': ({'pipeline': 'circular(4)'}, '8 layers .* 4 stages .* × 4 repeats .* 16 divides'),
    'odd repeats': ({'pipeline': 'circular(3)', 'depth': 12}, 'one must divide the other'),
    'microbatches': ({'pipeline': 'gpipe(6)'}, 'no multiple of the 4 stages .*; take 8'),
    'rows': ({'batch_size': 12}, '12 rows .* 4 microbatches .* × 2 devices; .* multiple of 8'),
    'accumulated rows': ({'batch_size': 16, 'accumulate': 4}, '4 rows .* over accumulate'),
    'given microbatches': ({'pipeline': 'gpipe(32)', 'batch_size': 32}, 'other microbatches of'),
    'shared': ({'share': 'all'}, "set model.share='none'"),
    'last layers': ({'last_layers': 1}, 'set it to 0'),
    'encoder': ({'encoder_depth': 3, 'cross': 'attention'}, 'of the encoder: .*3 layers'),
    'one repeat': ({'pipeline': 'circular(1)'}, 'at least 2'),
    'schedule': ({'pipeline': 'gpip'}, "Did you mean 'gpipe'"),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_refused_before_anything_is_compiled(name: str) -> None:
    changes, message = MISTAKES[name]
    config = small_config(LENGTH, depth=8)
    config.data.batch_size = 32
    config.sharding.mesh, config.sharding.rules = 'pipeline=4,data=2', 'pipeline'
    for key, value in changes.items():
        for group in (config, config.data, config.model, config.optimizer, config.sharding):
            if key in group:
                group[key] = value
    c = config.sharding
    with pytest.raises(UserError, match=message):
        check_stages(config, make_sharding(c.mesh, c.rules, None, c.pipeline))


def test_layers_of_a_circular_pipeline_wait_on_the_host_where_a_policy_says_so() -> None:
    tokens = jnp.asarray(random_tokens(ROWS, LENGTH))

    def moves(remat: str) -> int:
        model = small_model(LENGTH, depth=DEPTH, remat=remat)
        params = random_params(model)
        with pipe('pipeline=2', pipeline=CIRCULAR).active():
            program = jax.make_jaxpr(jax.grad(lambda p: apply(model, p, tokens).sum()))(params)
        return str(program).count('MemorySpace.Host')

    assert moves('full') == 0 < moves('offload')


def test_a_companion_of_other_layers_is_named() -> None:
    config, theirs = small_config(LENGTH, depth=8), small_config(LENGTH, depth=6)
    config.data.batch_size = 32
    with pytest.raises(UserError, match=r'the teacher: .*6 layers'):
        companions.check_stages(config, theirs, pipe('pipeline=4,data=2'), 'the teacher')


def test_a_run_goes_on_through_stages(tmp_path: pathlib.Path) -> None:
    """Its checkpoints know of none: layers are in order."""
    text = tmp_path / 'text.txt'
    text.write_text('the quick brown fox jumps over the lazy dog. ' * 400)
    changes = {
        'data.source': 'text',
        'data.path': text,
        'data.seq_len': 16,
        'data.batch_size': 8,
        'model.depth': 4,
        'model.width': 16,
        'model.num_heads': 2,
        'num_steps': 4,
        'log_every': 1,
        'checkpoint.every': 2,
        'evals.validation.batches': 1,
        'sample': '',
    }
    card = str(pathlib.Path(__file__).parents[1] / 'experiments' / 'quickstart.py')
    argv = ['train', f'--config={card}', *(f'--config.{k}={v}' for k, v in changes.items())]
    whole, moved = tmp_path / 'whole', tmp_path / 'moved'
    assert main([*argv, f'--workdir={whole}']) == 0
    shutil.copytree(whole, moved)
    shutil.rmtree(moved / 'checkpoints' / '4')
    (moved / 'result.json').unlink()
    stages = {'mesh': 'pipeline=2,data=-1', 'rules': 'pipeline', 'pipeline': 'circular'}
    argv += [f'--config.sharding.{k}={v}' for k, v in stages.items()]
    assert main([*argv, f'--workdir={moved}']) == 0
    for want, got in zip(
        *(read_jsonl(run / 'metrics.jsonl') for run in (whole, moved)), strict=True
    ):
        for key in ('train/loss', 'validation/loss'):
            assert got.get(key, 0.0) == pytest.approx(want.get(key, 0.0), rel=1e-5)
    # Adam divides by the gradient's size, so rounding of one near 0 may be up to a rate (1e-3).
    (_, want), (_, got) = (read_params(run) for run in (whole, moved))
    assert_trees_close(got, want, rtol=1e-4, atol=5e-5)


def read_params(run: pathlib.Path) -> tuple[int, Any]:
    """The last step, and its parameters."""
    from orbax.checkpoint import v1 as ocp

    step = max(int(folder.name) for folder in (run / 'checkpoints').glob('[0-9]*'))
    state = ocp.load(run / 'checkpoints' / str(step), checkpointable_name='state')
    return step, state['params']
