"""Tokens further ahead: the loss by hand, documents, and that only training computes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.layers.norms import NORMS
from bigmodel.models.counts import flops_per_row
from bigmodel.models.model import Model, apply, apply_cached, apply_with_losses
from bigmodel.training.state import abstract_params
from tests.small import quick_jit, random_params, random_tokens, small_config, small_model

LENGTH = 8


def ahead(model: Model, params: Any, tokens: Any, segments: Any = None) -> float:
    run = lambda p, t, s: apply_with_losses(model, p, t, None, s)[1]['ahead']  # noqa: E731
    segments = None if segments is None else jnp.asarray(segments)
    return float(quick_jit(run)(params, jnp.asarray(tokens), segments))


def test_the_loss_is_that_of_the_paper() -> None:
    """DeepSeek-V3, eqs. 21 to 25, for two tokens, one row at a time, without scan or shifts."""
    model = small_model(LENGTH, ahead='mtp(tokens=2, weight=0.5)', position='none')
    params, tokens = random_params(model), random_tokens(2, LENGTH)
    own, table = params['ahead'], params['inputs']['tokens']['table']
    block = model.make_ahead.keywords['block']()

    def backbone(m: Model) -> Any:
        x, _ = m.inputs(jnp.asarray(tokens))
        context = m.backbone.context(tokens.shape)
        return m.backbone(x, context), context

    x, context = nn.apply(backbone, model)({'params': params})

    def norm(name: str, x: jax.Array) -> jax.Array:
        return NORMS['rmsnorm'](1e-5).apply({'params': own[name]}, x)

    losses = []
    for k in (1, 2):
        known = norm(f'embed_norm_{k}', table[np.roll(tokens, -k, 1)])
        x = jnp.concatenate([x, known], -1) @ own[f'join_{k}']['weight']
        x = norm(f'norm_{k}', block.apply({'params': own[f'block_{k}']}, x, context))
        log_p = np.asarray(jax.nn.log_softmax(x @ table.T))
        found = [
            -log_p[row, i, tokens[row, i + k + 1]]
            for row in range(2)
            for i in range(LENGTH - k - 1)
        ]
        losses.append(np.mean(found))
    want = 0.5 / 2 * sum(losses)
    assert ahead(model, params, tokens) == pytest.approx(want, rel=1e-4)


def test_no_prediction_crosses_a_document_or_is_of_padding() -> None:
    model = small_model(LENGTH, ahead='mtp')
    params, tokens = random_params(model), random_tokens(1, LENGTH)
    segments = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    changed = tokens.copy()
    changed[0, 4:] = (changed[0, 4:] + 1) % 32  # document 2 is too short to count
    base = ahead(model, params, tokens, segments)
    assert ahead(model, params, changed, segments) == pytest.approx(base, rel=1e-5)
    changed[0, 3] = (changed[0, 3] + 1) % 32
    assert ahead(model, params, changed, segments) != pytest.approx(base, rel=1e-2)


def test_outputs_and_decoding_are_those_of_the_model_without() -> None:
    model, plain = small_model(LENGTH, ahead='mtp'), small_model(LENGTH)
    params, tokens = random_params(model), jnp.asarray(random_tokens(1, LENGTH))
    without = {k: v for k, v in params.items() if k != 'ahead'}
    want = quick_jit(lambda p: apply(plain, p, tokens))(without)
    np.testing.assert_array_equal(quick_jit(lambda p: apply(model, p, tokens))(params), want)
    step = quick_jit(lambda p: apply_cached(model, p, None, tokens, LENGTH))
    got, cache = step(params)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert 'ahead' not in cache


def test_flops_count_the_layer_ahead_and_the_heads_second_use() -> None:
    def flops(spec: str) -> int:
        config = small_config(LENGTH, ahead=spec, vocab_size=64)
        boxed = abstract_params(small_model(LENGTH, ahead=spec, vocab_size=64))
        return flops_per_row(config.model, boxed, LENGTH)

    width, heads, kv, hidden, vocab = 16, 16, 8, 64, 64
    layer = 2 * width * heads + 2 * width * kv + 3 * width * hidden
    added = 6 * LENGTH * (layer + 2 * width * width + width * vocab) + 12 * heads * LENGTH**2
    assert flops('mtp') - flops('none') == added


def test_flops_count_the_layer_aheads_look_at_the_source() -> None:
    def flops(source_length: int, spec: str) -> int:
        model = {'ahead': spec, 'encoder_depth': 2, 'cross': 'attention'}
        boxed = abstract_params(small_model(LENGTH, **model))
        return flops_per_row(small_config(LENGTH, **model).model, boxed, LENGTH, source_length)

    width, heads, kv, source = 16, 16, 8, 6
    added = [flops(n, 'mtp') - flops(n, 'none') for n in (0, source)]
    # Keys and values of the source, and its pairs with the queries.
    assert added[1] - added[0] == 6 * source * 2 * width * kv + 12 * heads * LENGTH * source
