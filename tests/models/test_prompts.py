"""Prompts: the same as real tokens before the row, read once, and out of the head's sight."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.models.build import build_model
from bigmodel.models.counts import flops_per_row
from bigmodel.models.model import Model, apply, apply_cached
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.outline import outline
from bigmodel.training.state import abstract_params
from tests.small import (
    VOCAB,
    forward,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

LENGTH, PROMPT = 8, 3
SOFT = f'soft(length={PROMPT})'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}
# Encodings of each hook, and mixers that count what comes before in another way each.
MODELS = [
    *({'position': position} for position in ('learned', 'rope', 'alibi', 'cope')),
    *({'mixer': mixer, 'position': 'none'} for mixer in ('rglru', 'short_conv', 'long_conv')),
    {'mask': 'full'},
    {'pattern': ('window(4)', 'causal'), 'block': 'parallel'},
]
CAUSAL = [model for model in MODELS if model.get('mask') != 'full']


def pair(**changes: Any) -> tuple[Model, Model, Any, np.ndarray]:
    """A model with a prompt, the one without, parameters, and tokens that the prompt's are."""
    model = small_model(LENGTH, prompt=SOFT, max_length=LENGTH + PROMPT, **changes)
    plain = small_model(LENGTH, max_length=LENGTH + PROMPT, **changes)
    params, before = random_params(model), random_tokens(1, PROMPT, seed=5)
    params['prompt']['table'] = params['inputs']['tokens']['table'][before[0]]
    return model, plain, params, before


@pytest.mark.parametrize('changes', MODELS, ids=str)
def test_it_is_tokens_before_the_row_at_position_0(changes: dict) -> None:
    """Row 1 ends in padding, of which the prompt is no part."""
    model, plain, params, before = pair(**changes)
    tokens, positions = random_tokens(2, LENGTH), slots(2, LENGTH)
    segments = np.ones_like(tokens)
    segments[1, -2:] = 0
    got = forward(model)(params, tokens, positions, segments)
    longer = np.concatenate([np.repeat(before, 2, 0), tokens], 1)
    zeros, ones = np.zeros((2, PROMPT), np.int32), np.ones((2, PROMPT), np.int32)
    want = forward(plain)(
        {k: v for k, v in params.items() if k != 'prompt'},
        longer,
        np.concatenate([zeros, positions], 1),
        np.concatenate([ones, segments], 1),
    )[:, PROMPT:]
    assert got.shape == (2, LENGTH, VOCAB)
    there = segments > 0
    np.testing.assert_allclose(got[there], want[there], **CLOSE)


def test_it_belongs_to_the_prefix_of_its_row() -> None:
    model, plain, params, before = pair(mask='prefix')
    tokens, prefix = random_tokens(2, LENGTH), np.arange(LENGTH) < np.array([[3], [5]])
    ones, zeros = np.ones((2, PROMPT), bool), np.zeros((2, PROMPT), np.int32)

    def run(model: Model, params: Any, tokens: Any, places: Any, shown: Any) -> jax.Array:
        run = quick_jit(lambda p, t, at, x: apply(model, p, t, at, prefix=x))
        return run(params, tokens, places, shown)

    got = run(model, params, tokens, slots(2, LENGTH), prefix)
    want = run(
        plain,
        {k: v for k, v in params.items() if k != 'prompt'},
        np.concatenate([np.repeat(before, 2, 0), tokens], 1),
        np.concatenate([zeros, slots(2, LENGTH)], 1),
        np.concatenate([ones, prefix], 1),
    )
    np.testing.assert_allclose(got, want[:, PROMPT:], **CLOSE)


@pytest.mark.parametrize('changes', CAUSAL, ids=str)
def test_it_is_read_once_and_decoding_is_the_full_forward_pass(changes: dict) -> None:
    """With positions that are counted, and with left-padded rows that say theirs."""
    model, _, params, _ = pair(**changes)
    tokens = random_tokens(2, LENGTH, seed=1)
    segments, positions = np.ones_like(tokens), slots(2, LENGTH)
    segments[1, :2], positions[1] = 0, np.maximum(np.arange(LENGTH) - 2, 0)
    for places in ((None, None), (positions, segments)):
        whole = forward(model)(params, tokens, *places)
        step = quick_jit(lambda p, c, t, *at: apply_cached(model, p, c, t, LENGTH, *at))
        cache, parts = None, []
        for begin, end in ((0, 4), (4, 5), (5, LENGTH)):
            at = [None if x is None else x[:, begin:end] for x in places]
            logits, cache = step(params, cache, tokens[:, begin:end], *at)
            parts.append(logits)
        there = segments > 0 if places[0] is not None else np.ones_like(segments, bool)
        np.testing.assert_allclose(np.concatenate(parts, 1)[there], whole[there], **CLOSE)


def test_later_tokens_do_not_change_earlier_logits_and_the_prompt_changes_all() -> None:
    model, _, params, _ = pair()
    tokens = random_tokens(1, LENGTH)
    base = forward(model)(params, tokens, None, None)
    for i in (1, LENGTH - 1):
        changed = tokens.copy()
        changed[0, i] = (changed[0, i] + 1) % VOCAB
        moved = np.abs(forward(model)(params, changed, None, None) - base)[0].max(-1)
        assert not moved[:i].any() and moved[i] > 1e-3
    params['prompt']['table'] = params['prompt']['table'] + 1
    moved = np.abs(forward(model)(params, tokens, None, None) - base)[0].max(-1)
    assert (moved > 1e-4).all()


def test_it_alone_is_trained_with_state_of_its_own_size() -> None:
    config = small_config(LENGTH, prompt=SOFT)
    config.optimizer.train = (('prompt/.*', True), ('.*', False))
    model = small_model(LENGTH, prompt=SOFT)
    tuner, hparams = build_optimizer(config, abstract_params(model))
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    part = tuner.selection.part(params)
    assert {k: v.shape for k, v in part['prompt'].items()} == {'table': (PROMPT, 16)}

    def loss(part: Any) -> jax.Array:
        return jnp.mean(apply(model, tuner.selection.whole(params, part), tokens) ** 2)

    grads = quick_jit(jax.grad(loss))(part)
    assert grads.keys() == {'prompt'} and np.abs(grads['prompt']['table']).min() > 0
    state = jax.eval_shape(lambda: tuner.init(params, hparams))
    assert {x.shape for x in jax.tree.leaves(state) if x.ndim} == {(PROMPT, 16)}


def test_flops_count_the_prompts_tokens() -> None:
    config = small_config(LENGTH)
    longer = small_config(LENGTH, prompt=SOFT)
    boxed = abstract_params(small_model(LENGTH, prompt=SOFT))
    plain = flops_per_row(config.model, abstract_params(small_model(LENGTH)), LENGTH + PROMPT)
    assert flops_per_row(longer.model, boxed, LENGTH) == plain


def test_what_cannot_have_a_prompt_says_so() -> None:
    config = small_config(LENGTH, prompt=SOFT)
    for packing in ('stream', 'first_fit'):
        config.data.packing = packing
        with pytest.raises(UserError, match=f"data.packing='{packing}' puts several into a row"):
            outline(config)
    config = small_config(LENGTH, prompt=SOFT, ahead='mtp')
    with pytest.raises(UserError, match='makes rows longer'):
        build_model(config.model, VOCAB, 0, 'cpu')
    with pytest.raises(UserError, match=r"unknown model.prompt 'sofd'\. Did you mean 'soft'"):
        small_model(LENGTH, prompt='sofd')
