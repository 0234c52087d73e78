"""Heads: tied and untied logits, pools that ignore padding, a classifier that starts at zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.models.heads import HEADS, POOLS
from bigmodel.models.model import Model, apply, init_params
from tests.small import (
    VOCAB,
    forward,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_model,
    unboxed_shapes,
)

LENGTH, LABELS = 12, 3
INPUTS = {'pixels': 'patches(size=2)'}  # of heads that read no tokens
# Two layers of float32 sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def residual(model: Model, params: Any, inputs: jax.Array) -> jax.Array:
    """What the backbone hands to the head."""

    def run(m: Model) -> jax.Array:
        x_BLD, positions = m.inputs(inputs)
        return m.backbone(x_BLD, m.backbone.context(x_BLD.shape[:2], positions))

    return quick_jit(lambda p: nn.apply(run, model)({'params': p}))(params)


def test_tied_logits_are_products_with_the_token_table() -> None:
    model = small_model(LENGTH, head='lm(tied=True)')
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    assert 'head' not in params
    want = residual(model, params, tokens) @ params['inputs']['tokens']['table'].T
    np.testing.assert_allclose(quick_jit(lambda p: apply(model, p, tokens))(params), want, **CLOSE)


def test_untied_logits_have_their_own_weight() -> None:
    model = small_model(LENGTH, head='lm(tied=False)')
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    want = residual(model, params, tokens) @ params['head']['out']['weight']
    np.testing.assert_allclose(quick_jit(lambda p: apply(model, p, tokens))(params), want, **CLOSE)


@pytest.mark.parametrize('head', ['lm(tied=True)', 'lm(tied=False)', 'mlm'])
def test_rows_that_pad_the_table_are_never_predicted(head: str) -> None:
    model = small_model(LENGTH, head=head, vocab_size=40)
    logits = forward(model)(random_params(model), jnp.asarray(random_tokens(2, LENGTH)), None, None)
    assert logits.shape[-1] == 40
    probabilities = jax.nn.softmax(logits)
    assert np.all(probabilities[..., VOCAB:] == 0) and np.all(probabilities[..., :VOCAB] > 0)


@pytest.mark.parametrize(('head', 'shape'), [('classifier', (2, LABELS)), ('regressor', (2,))])
@pytest.mark.parametrize('pool', POOLS)
def test_pools_ignore_padding(pool: str, head: str, shape: tuple) -> None:
    model = small_model(LENGTH, LABELS, mask='full', head=f'{head}(pool={pool!r})')
    params, tokens = random_params(model), random_tokens(2, LENGTH)
    segments = np.array([[1] * 12, [1] * 7 + [0] * 5])
    changed = tokens.copy()
    changed[1, 7:] = (changed[1, 7:] + 1) % 32
    run = lambda t: forward(model)(params, jnp.asarray(t), slots_, jnp.asarray(segments))  # noqa: E731
    slots_ = jnp.asarray(slots(2, LENGTH))
    got, other = run(tokens), run(changed)
    assert got.shape == shape
    np.testing.assert_allclose(got, other, rtol=1e-6, atol=1e-6)
    changed[1, 0 if pool == 'first' else 6] = (tokens[1, 0 if pool == 'first' else 6] + 1) % 32
    assert np.abs(run(changed)[1] - got[1]).max() > 1e-3


@pytest.mark.parametrize('pool', POOLS)
def test_pool_is_the_vector_it_names(pool: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    here = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    got = POOLS[pool](jnp.asarray(x), jnp.asarray(here))
    want = {
        'mean': [x[0].mean(0), x[1, :2].mean(0), 0 * x[2, 0]],
        'last': [x[0, 4], x[1, 1], x[2, 0]],
        'first': [x[0, 0], x[1, 0], x[2, 0]],
    }
    np.testing.assert_allclose(got, want[pool], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ('head', 'outputs'),
    [
        ('classifier', LABELS),
        ('token_classifier', LABELS),
        ('regressor', 1),
        ('span', 2),
        ('detector', 1),
    ],
)
def test_heads_for_fine_tuning_start_at_zero(head: str, outputs: int) -> None:
    model = small_model(LENGTH, LABELS, mask='full', head=head)
    params = nn.unbox(quick_jit(lambda: init_params(model, jax.random.key(0)))())
    assert params['head']['out']['weight'].shape == (16, outputs)
    tokens = jnp.asarray(random_tokens(2, LENGTH))
    assert not quick_jit(lambda p: apply(model, p, tokens))(params).any()


@pytest.mark.parametrize('head', ['token_classifier', 'span', 'detector'])
def test_heads_of_tokens_are_products_with_each_vector(head: str) -> None:
    model = small_model(LENGTH, LABELS, mask='full', head=head)
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    out = params['head']['out']
    want = residual(model, params, tokens) @ out['weight'] + out['bias']
    got = quick_jit(lambda p: apply(model, p, tokens))(params)
    # Of one logit a token there is no axis.
    np.testing.assert_allclose(got.reshape(want.shape), want, **CLOSE)
    assert got.ndim == (2 if head == 'detector' else 3)


@pytest.mark.parametrize('class_token', [False, True])
def test_the_pixels_of_a_patch_are_a_product_with_its_vector(class_token: bool) -> None:
    inputs = f'patches(size=2, channels=3, class_token={class_token})'
    model = small_model(4 + class_token, mask='full', inputs=inputs, head='pixels')
    params, images = random_params(model), jnp.asarray(np.arange(96).reshape(2, 4, 4, 3), jnp.uint8)
    x_BND = residual(model, params, images)[:, int(class_token) :]
    out = params['head']['out']
    want = x_BND @ out['weight'] + out['bias']
    assert want.shape == (2, 4, 12)
    np.testing.assert_allclose(quick_jit(lambda p: apply(model, p, images))(params), want, **CLOSE)


def test_text_has_no_pixels_to_predict() -> None:
    with pytest.raises(UserError, match=r"'pixels' predicts patches, which model\.inputs"):
        unboxed_shapes(small_model(LENGTH, head='pixels'))


def test_unknown_pool_names_the_nearest() -> None:
    model = small_model(LENGTH, LABELS, head='classifier(pool="men")')
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        unboxed_shapes(model)


@pytest.mark.parametrize('name', HEADS)
def test_heads_answer_in_float32(name: str) -> None:
    model = small_model(LENGTH, LABELS, head=name, dtype='bfloat16', inputs=INPUTS.get(name, ''))
    inputs, _ = model.example(LENGTH)
    out = jax.eval_shape(lambda p: apply(model, p, inputs), unboxed_shapes(model))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(out))


@pytest.mark.parametrize('tied', [True, False])
def test_mlm_logits_are_products_with_the_normed_transform(tied: bool) -> None:
    model = small_model(LENGTH, head=f'mlm(tied={tied}, activation="tanh")')
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    head = params['head']
    h = np.tanh(
        residual(model, params, tokens) @ head['transform']['weight'] + head['transform']['bias']
    )
    h = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True)
    h = h * head['norm']['scale'] + head['norm']['bias']
    table = params['inputs']['tokens']['table'].T if tied else head['out']['weight']
    want = h @ table + head['bias']
    np.testing.assert_allclose(quick_jit(lambda p: apply(model, p, tokens))(params), want, **CLOSE)
