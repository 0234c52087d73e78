"""Every preset, and 25 ways to join them: one device's loss and gradients, and no collective
but those that theory predicts.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import CharTokenizer
from bigmodel.errors import UserError
from bigmodel.models.decoding import greedy
from bigmodel.planning.collectives import collectives_of
from bigmodel.planning.program import read_program
from bigmodel.rules import MESH_AXES, PRESETS, rules_of
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.training.batches import put_batch
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.placement import described
from bigmodel.training.state import State, abstract_params, init_state, state_sharding
from bigmodel.training.step import make_train_step
from tests.collectives import KINDS, Collective, collectives
from tests.small import (
    VOCAB,
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

# 3 divides the size of all activations, whose rows have 24 tokens, and of no weight.
LENGTH, ROWS = 24, 8
DENSE = {'kernel': 'ring'}
# Places for all, so that nothing is dropped.
SWITCH = 'switch(experts=4, top_k=2, capacity=2.0)'
SINGLE = {
    'dp': 'data=8',
    'pipeline': 'pipeline=2,data=4',
    'zero1': 'data=2,fsdp=4',
    'zero2': 'data=2,fsdp=4',
    'fsdp': 'data=2,fsdp=4',
    'expert': 'data=2,expert=4',
    'context': 'data=2,context=4',
    'tensor': 'data=4,tensor=2',
    'sequence': 'data=4,tensor=2',
}
JOINED = {
    'zero1_tensor': 'fsdp=4,tensor=2',
    'zero2_tensor': 'data=2,fsdp=2,tensor=2',
    'fsdp_tensor': 'data=2,fsdp=2,tensor=2',
    'zero1_sequence': 'data=2,fsdp=2,tensor=2',
    'zero2_sequence': 'fsdp=4,tensor=2',
    'fsdp_sequence': 'fsdp=4,tensor=2',
    'zero1_context': 'fsdp=2,context=4',
    'zero2_context': 'data=2,fsdp=2,context=2',
    'fsdp_context': 'data=2,fsdp=2,context=2',
    'context_tensor': 'context=4,tensor=2',
    'context_sequence': 'data=2,context=2,tensor=2',
    'zero1_context_tensor': 'fsdp=2,context=2,tensor=2',
    'zero2_context_sequence': 'fsdp=2,context=2,tensor=2',
    'fsdp_context_tensor': 'dcn_fsdp=2,context=2,tensor=2',
    'fsdp_context_sequence': 'fsdp=2,context=2,tensor=2',
    'zero1_expert': 'data=2,fsdp=2,expert=2',
    'fsdp_expert': 'dcn_data=2,fsdp=2,expert=2',
    'expert_tensor': 'data=2,expert=2,tensor=2',
    'fsdp_expert_sequence': 'fsdp=2,expert=2,tensor=2',
    'expert_context': 'data=2,expert=2,context=2',
    'pipeline_zero1': 'pipeline=2,data=2,fsdp=2',
    'pipeline_fsdp_tensor': 'pipeline=2,fsdp=2,tensor=2',
    'pipeline_fsdp_sequence': 'pipeline=2,fsdp=2,tensor=2',
    'pipeline_context': 'dcn_pipeline=2,data=2,context=2',
    'pipeline_expert': 'pipeline=2,data=2,expert=2',
}


@dataclasses.dataclass
class Step:
    """A compiled step: its loss, first moments (a tenth of the gradients) and program."""

    loss: float
    moments: Any
    hlo: str


def batch() -> dict[str, np.ndarray]:
    """Rows of unequal length, of one or two documents."""
    task = build_task('causal_lm')
    tokens = random_tokens(ROWS, LENGTH + 1)
    lengths = np.array([25, 2, 25, 5, 1, 25, 20, 8])[:, None]
    documents = 1 + (slots(*tokens.shape) >= 11)
    segments = np.where(slots(*tokens.shape) < lengths, documents, 0).astype(np.int32)
    rows = {'tokens': tokens, 'positions': slots(*tokens.shape), 'segments': segments}
    tokenizer = CharTokenizer(''.join(chr(65 + i) for i in range(VOCAB)))
    return task.prepare(rows, Draws(np.arange(ROWS, dtype=np.uint64)), tokenizer)


def step(sharding: Sharding, accumulate: int = 1, **model: Any) -> Step:
    config = small_config(LENGTH, **model)
    config.optimizer.clip_norm = 0.0
    built = small_model(LENGTH, **model)
    boxed = abstract_params(built)
    optimizer, hparams = build_optimizer(config, boxed)
    shapes = jax.eval_shape(lambda h: init_state(built, optimizer, h), hparams)
    places = state_sharding(sharding, boxed, shapes)
    run = quick_jit(
        make_train_step(built, build_task('causal_lm'), optimizer, accumulate),
        out_shardings=(places, None),
    )
    params = random_params(built)
    state = State(
        jnp.int32(0), params, jax.tree.map(jnp.zeros_like, optimizer.init(params, hparams))
    )
    with sharding.active():
        state, rows = jax.device_put(state, places), put_batch(batch(), sharding)
        compiled = run.lower(state, rows, hparams).compile()
        state, metrics = compiled(state, rows, hparams)
    return Step(metrics['loss'].value(), state.opt_state.mu, compiled.as_text())


@functools.cache
def one_device(ffn: str = '') -> Step:
    return step(make_sharding('', 'dp', jax.devices()[:1]), **model_with(ffn))


def model_with(ffn: str) -> dict[str, str]:
    return DENSE | ({'ffn': ffn} if ffn else {})


def ffn_for(rules: str) -> str:
    if 'expert' not in rules:
        return ''
    # The balance of each microbatch is not that of the batch: tests/test_pipeline.py.
    return SWITCH.replace(')', ', balance=0.0)') if 'pipeline' in rules else SWITCH


def theory(rules: str, sharding: Sharding) -> set[str]:
    """'kind over axis' for each collective of floats. XLA:CPU has no reduce-scatter: there it is
    an all-reduce, of which each device keeps a part.
    """
    parts, sizes = set(rules.split('_')), sharding.mesh.shape
    used = [axis for axis in MESH_AXES if sizes[axis] > 1]
    # Gradients are summed over all that split tokens, and products over what splits their terms.
    found = {f'all-reduce over {axis}' for axis in used}
    if parts & {'zero1', 'zero2', 'fsdp'}:
        found.add('all-gather over fsdp')  # of weights: before they are used, or as they are new
    if parts & {'tensor', 'sequence'}:
        found.add('all-gather over tensor')  # of the best tokens; of what goes into branches
    if 'pipeline' in parts:
        found.add('collective-permute over pipeline')
    if 'context' in parts:
        found.add('collective-permute over context')
    if 'expert' in parts:
        found.add('all-to-all over expert')
    if {'context', 'expert'} <= parts:
        found.add('all-gather over context')  # places of experts are counted in whole rows
    if {'expert', 'fsdp', 'sequence'} <= parts:
        # The one thing that XLA adds: the router's part of D/2 × E numbers changes its place.
        found |= {f'collective-permute over {axis}' for axis in used}
    return found


def check_gathers(rules: str, sharding: Sharding, found: list[Collective]) -> None:
    """No activation is gathered or moved but where theory says so, and then of that size."""
    parts, sizes = set(rules.split('_')), sharding.mesh.shape
    counts = {ROWS // sharding.batch_ways}
    if 'pipeline' in parts:
        microbatches = sharding.plan(ROWS, 2).microbatches
        counts.add(ROWS * sizes['pipeline'] // sharding.batch_ways // microbatches)
    length = LENGTH // sizes['context']
    for call in found:
        moved = call.kind == 'collective-permute' and call.axes != ('pipeline',)
        if moved and 'context' not in parts:
            assert call.scalars == 16 // sizes['fsdp'] * 4  # of the router
        if call.kind != 'all-gather' or {'context', 'expert'} <= parts:
            continue
        for _, shape in call.arrays:
            if math.prod(shape) % 3 == 0:
                assert call.axes == ('tensor',), f'{rules}: {call} of activations {shape}'
                allowed = {sizes['tensor']} | ({16} if 'sequence' in parts else set())
                sizes_of = {rows * length * n for n in allowed for rows in counts}
                assert math.prod(shape) in sizes_of, (rules, shape)


def test_every_preset_is_tried_alone_and_joined() -> None:
    assert set(SINGLE) == set(PRESETS)
    assert len(JOINED) == 25
    assert {part for rules in JOINED for part in rules.split('_')} == set(PRESETS) - {'dp'}


@pytest.mark.parametrize('rules', [*SINGLE, *JOINED])
def test_loss_gradients_and_collectives(rules: str) -> None:
    sharding, ffn = make_sharding((SINGLE | JOINED)[rules], rules), ffn_for(rules)
    got, want = step(sharding, **model_with(ffn)), one_device(ffn)
    # The same float32 sums in another order.
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)
    calls = collectives(got.hlo, sharding.mesh)
    # Ids of tokens and places are small beside activations.
    floats = [c for c in calls if any(dtype.startswith('f') for dtype, _ in c.arrays)]
    assert {f'{c.kind} over {axis}' for c in floats for axis in c.axes} == theory(rules, sharding)
    check_gathers(rules, sharding, floats)


@pytest.mark.parametrize(
    'model',
    [
        {'kernel': 'reference'},
        {'kernel': 'fused'},
        {'kernel': 'blockwise(4)'},
        {'kernel': 'ring', 'mask': 'window(5)', 'position': 'alibi', 'remat': 'full'},
        {'mixer': 'rglru', 'position': 'none'},
        {'mixer': 'mamba2', 'position': 'none', 'num_kv_heads': 4},
        {'kernel': 'ring', 'ffn': 'moe(experts=4)'},
    ],
    ids=['reference', 'fused', 'blockwise', 'ring', 'rglru', 'mamba2', 'moe'],
)
def test_parts_that_see_whole_rows_are_exact_where_rows_are_split(model: dict) -> None:
    sharding = make_sharding('data=2,context=4', 'context')
    got = step(sharding, **model)
    want = step(make_sharding('', 'dp', jax.devices()[:1]), **model)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)
    gathers = any(c.kind == 'all-gather' for c in collectives(got.hlo, sharding.mesh))
    assert gathers == (model.get('kernel') != 'ring')


def test_experts_that_drop_nothing_are_exact_where_experts_are_split() -> None:
    model = {'ffn': 'moe(experts=4, choice_bias=0.1)'}
    got = step(make_sharding('data=2,expert=4', 'expert'), **model)
    want = step(make_sharding('', 'dp', jax.devices()[:1]), **model)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)


def test_microbatches_are_exact_where_gradients_and_rows_are_split() -> None:
    got = step(make_sharding('fsdp=2,context=2,tensor=2', 'zero2_context_sequence'), 2, **DENSE)
    np.testing.assert_allclose(got.loss, one_device().loss, rtol=1e-5)
    assert_trees_close(got.moments, one_device().moments, rtol=1e-4, atol=2e-6)


def sent(run: Step, sharding: Sharding) -> dict[str, float]:
    """Bytes that a device sends, by kind: what is sent in a loop counts as often as it runs."""
    total: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for call in collectives_of(read_program(run.hlo), dict(sharding.mesh.shape)):
        total[call.kind] += call.times * call.num_bytes
    return total


@pytest.mark.parametrize(
    ('rules', 'accumulate'),
    [('fsdp_tensor', 1), ('zero2_context_sequence', 2)],
)
def test_logits_in_chunks_are_exact_and_move_no_more(rules: str, accumulate: int) -> None:
    """The gradient of the head's weight is summed over devices once, not once a chunk."""
    sharding = make_sharding(JOINED[rules], rules)
    # Of 48 tokens of a device and microbatch three chunks, of 24 two.
    got = step(sharding, accumulate, head='lm(chunk=16)', **DENSE)
    want = one_device(False)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)
    moved, before = sent(got, sharding), sent(step(sharding, accumulate, **DENSE), sharding)
    assert all(moved[kind] <= 1.02 * before[kind] for kind in KINDS), (moved, before)


def held(rules: str) -> tuple[State, Sharding]:
    """A state's shapes with their shardings, over eight devices of one axis."""
    config, built = small_config(LENGTH), small_model(LENGTH)
    boxed, sharding = abstract_params(built), make_sharding('fsdp=8', rules)
    optimizer, hparams = build_optimizer(config, boxed)
    shapes = jax.eval_shape(lambda h: init_state(built, optimizer, h), hparams)
    places = state_sharding(sharding, boxed, shapes)
    put = lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p)  # noqa: E731
    return jax.tree.map(put, shapes, places), sharding


@pytest.mark.parametrize(('rules', 'params'), [('zero1', '100 % (100 %'), ('fsdp', '12.5 % (0 %')])
def test_each_stage_of_zero_holds_its_part(rules: str, params: str) -> None:
    text = described(*held(rules))
    assert f'parameters {params} replicated)' in text
    assert 'optimizer 12.5 % (' in text
    assert text.endswith('copies of an activation: 1')


def test_copies_of_activations_are_counted() -> None:
    state, _ = held('fsdp')
    sequence = make_sharding('data=2,tensor=4', 'sequence')
    assert described(state, sequence).endswith('1 between blocks, 4 inside')


def test_gradients_of_zero2_are_summed_in_parts() -> None:
    """The loop over microbatches carries a quarter of the token table's gradient, 32 × 16."""
    run = step(make_sharding('fsdp=4', 'zero2', jax.devices()[:4]), 2, **DENSE)
    carried = [line.split(' while(')[0] for line in run.hlo.splitlines() if ' while(' in line]
    assert any('f32[32,4]' in line for line in carried)
    sums = [line for line in carried if 'f32[32,4]' in line]
    # The table itself, of which devices have all, goes in once.
    assert all(line.count('f32[32,16]') <= 1 for line in sums)


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ('fsdp_tenser', "unknown sharding.rules 'tenser'. Did you mean 'tensor'"),
        ('zero1_fsdp', 'fsdp and zero1 place the same arrays; choose one'),
        ('tensor_sequence', 'sequence and tensor place the same arrays'),
        ('tensor_fsdp', "write 'fsdp_tensor'"),
        ('dp_tensor', "write 'tensor'"),
        ('fsdp_fsdp', "write 'fsdp'"),
    ],
)
def test_presets_that_do_not_join_are_refused(rules: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rules_of(rules)


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="'length' of size 24 cannot be split 5 ways"):
        step(make_sharding('context=5', 'context', jax.devices()[:5]), **DENSE)


def test_decoding_takes_whole_rows() -> None:
    model = small_model(LENGTH, **DENSE)
    params, prompts = random_params(model), jnp.asarray(random_tokens(4, 3))
    lengths = jnp.full(4, 3)
    run = quick_jit(lambda p, x: greedy(model, p, x, lengths, 4, 3))
    want = run(params, prompts)
    with make_sharding('data=2,context=2,tensor=2', 'context_sequence').active():
        got = quick_jit(lambda p, x: greedy(model, p, x, lengths, 4, 3))(params, prompts)
    np.testing.assert_array_equal(got, want)
