"""Every preset, and twenty ways to join them: one device's loss and gradients, and no collective
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
from bigmodel.rules import MESH_AXES, PRESETS
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.training.batches import put_batch
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import State, abstract_params, init_state, state_sharding
from bigmodel.training.step import make_train_step
from tests.collectives import Collective, collectives
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
EXPERTS = {'kernel': 'ring', 'ffn': 'switch(experts=4, top_k=2, capacity=2.0)'}
SINGLE = {
    'dp': 'data=8',
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
def one_device(experts: bool) -> Step:
    return step(make_sharding('', 'dp', jax.devices()[:1]), **(EXPERTS if experts else DENSE))


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
    if 'context' in parts:
        found.add('collective-permute over context')
    if 'expert' in parts:
        found.add('all-to-all over expert')
    if {'context', 'expert'} <= parts:
        found.add('all-gather over context')  # places of experts are counted in whole rows
    return found


def check_gathers(rules: str, sharding: Sharding, found: list[Collective]) -> None:
    """No activation is gathered but where theory says so, and then of that size."""
    parts, sizes = set(rules.split('_')), sharding.mesh.shape
    rows = ROWS // sharding.batch_ways
    length = LENGTH // sizes['context']
    for call in found:
        if call.kind != 'all-gather' or {'context', 'expert'} <= parts:
            continue
        for _, shape in call.arrays:
            if math.prod(shape) % 3 == 0:
                assert call.axes == ('tensor',), f'{rules}: {call} of activations {shape}'
                allowed = {sizes['tensor']} | ({16} if 'sequence' in parts else set())
                assert math.prod(shape) in {rows * length * n for n in allowed}, (rules, shape)


def test_every_preset_is_tried_alone_and_joined() -> None:
    assert set(SINGLE) == set(PRESETS)
    assert len(JOINED) == 20
    assert {part for rules in JOINED for part in rules.split('_')} == set(PRESETS) - {'dp'}


@pytest.mark.parametrize('rules', [*SINGLE, *JOINED])
def test_loss_gradients_and_collectives(rules: str) -> None:
    experts = 'expert' in rules
    sharding = make_sharding((SINGLE | JOINED)[rules], rules)
    got = step(sharding, **(EXPERTS if experts else DENSE))
    want = one_device(experts)
    # The same float32 sums in another order.
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    assert_trees_close(got.moments, want.moments, rtol=1e-4, atol=2e-6)
    calls = collectives(got.hlo, sharding.mesh)
    # Ids of tokens and places are small beside activations.
    floats = [c for c in calls if any(dtype.startswith('f') for dtype, _ in c.arrays)]
    assert {f'{c.kind} over {axis}' for c in floats for axis in c.axes} == theory(rules, sharding)
    check_gathers(rules, sharding, floats)
