"""Encoder–decoders: what the decoder sees of the source, and decoding with a kept memory."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.models.build import kernel_name
from bigmodel.models.encoder import Source
from bigmodel.models.model import Model, apply, apply_cached, init_params
from tests.small import (
    CPU_KERNELS,
    quick_jit,
    random_params,
    random_tokens,
    small_config,
    small_model,
)

LENGTH, SOURCE = 8, 6
# Logits are of order 1 to 10, from four layers of float32 sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def encoder_decoder(**model: Any) -> tuple[Model, Any]:
    built = small_model(LENGTH, encoder_depth=2, cross='attention', **model)
    return built, random_params(built)


def logits(
    model: Model, params: Any, tokens: Any, source: Any, segments: Any = None, theirs: Any = None
) -> np.ndarray:
    arrays = [None if x is None else jnp.asarray(x) for x in (tokens, segments, source, theirs)]
    run = lambda p, t, s, src, own: apply(model, p, t, None, s, source=Source(src, None, own))  # noqa: E731
    return np.asarray(quick_jit(run)(params, *arrays))


@pytest.mark.parametrize('position', ['t5(num_buckets=8, max_distance=10)', 'rope', 'sinusoidal'])
def test_every_prediction_depends_on_the_whole_source(position: str) -> None:
    model, params = encoder_decoder(position=position)
    tokens, source = random_tokens(1, LENGTH), random_tokens(1, SOURCE, seed=1)
    base = logits(model, params, tokens, source)
    for i in range(SOURCE):
        changed = source.copy()
        changed[0, i] = (changed[0, i] + 1) % 32
        moved = np.abs(logits(model, params, tokens, changed) - base)[0].max(-1)
        assert (moved > 1e-4).all()


def test_the_decoder_is_causal() -> None:
    model, params = encoder_decoder()
    tokens, source = random_tokens(1, LENGTH), random_tokens(1, SOURCE, seed=1)
    changed = tokens.copy()
    changed[0, 4] = (changed[0, 4] + 1) % 32
    moved = logits(model, params, changed, source) - logits(model, params, tokens, source)
    assert not moved[0, :4].any() and np.abs(moved[0, 4]).max() > 1e-3


@pytest.mark.parametrize('kernel', CPU_KERNELS)
def test_documents_and_padding_of_a_source_are_kept_apart(kernel: str) -> None:
    """Two documents in a row of each: the logits of each with its own source alone."""
    model, params = encoder_decoder(kernel=kernel)
    tokens, source = random_tokens(1, LENGTH), random_tokens(1, SOURCE, seed=1)
    ours, theirs = [[1] * 3 + [2] * 5], [[1] * 2 + [2] * 3 + [0]]
    together = logits(model, params, tokens, source, ours, theirs)
    first = logits(model, params, tokens[:, :3], source[:, :2])
    np.testing.assert_allclose(together[:, :3], first, **CLOSE)
    # Without segments a row of the decoder is document 1.
    padded = logits(model, params, tokens[:, :3], source, None, [[1] * 2 + [0] * 4])
    np.testing.assert_allclose(padded, first, **CLOSE)


def test_decoding_reads_the_source_once() -> None:
    model, params = encoder_decoder(position='t5(num_buckets=8, max_distance=10)')
    tokens, source = (jnp.asarray(random_tokens(2, n, seed=n)) for n in (LENGTH, SOURCE))
    want = logits(model, params, tokens, source)
    first = lambda p, t: apply_cached(model, p, None, t, LENGTH, source=Source(source))  # noqa: E731
    found, cache = quick_jit(first)(params, tokens[:, :3])
    pieces = [found]
    step = quick_jit(lambda p, c, t: apply_cached(model, p, c, t, LENGTH))
    for i in range(3, LENGTH):
        found, cache = step(params, cache, tokens[:, i : i + 1])
        pieces.append(found)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), want, **CLOSE)


@pytest.mark.parametrize('branch', ['backbone cross', 'backbone mixer', 'encoder mixer'])
def test_projections_start_by_their_roles(branch: str) -> None:
    """Of both stacks and of what joins them: what ends a branch is smaller."""
    shape = {'width': 64, 'num_kv_heads': 4, 'depth': 4, 'init': 'gpt2(std=0.1)'}
    model = small_model(LENGTH, encoder_depth=2, cross='attention', **shape)
    params = nn.unbox(quick_jit(lambda: init_params(model, jax.random.key(0)))())
    stack, mixer = branch.split()
    depth = {'encoder': 2, 'backbone': 4}[stack]
    tree = params['encoder']['backbone'] if stack == 'encoder' else params[stack]
    for name, std in (('q', 0.1), ('k', 0.1), ('v', 0.1), ('out', 0.1 / math.sqrt(2 * depth))):
        weight = tree['layers']['block_0'][mixer][name]['weight']
        # At least 8,192 draws: the measured std is within 4 % at 5 sigma.
        assert weight.std() == pytest.approx(std, rel=0.04), name


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ({'cross': 'attention'}, "model.cross='attention' reads an encoder, but"),
        (
            {'encoder_pattern': ('full',)},
            "model.encoder_pattern=.'full',. .* model.encoder_depth=0",
        ),
        ({'encoder_depth': 2}, 'no layer of the decoder reads the encoder'),
        (
            {'encoder_depth': 3, 'cross': 'attention', 'encoder_pattern': ('full',) * 2},
            'model.encoder_pattern has 2 layers, which does not divide model.encoder_depth=3',
        ),
        ({'encoder_depth': 2, 'cross': 'attention(fused_qkv=True)'}, 'model.cross=.* of different'),
        (
            {
                'encoder_depth': 2,
                'cross': 'attention',
                'encoder_pattern': ('layer(cross="attention")',),
            },
            "model.encoder_pattern has cross='attention', but an encoder has no other",
        ),
        ({'encoder_depth': 2, 'cross': 'atention'}, "unknown model.cross .* Did you mean 'attent"),
        (
            {'encoder_depth': 2, 'cross': 'attention', 'mixer': 'rglru', 'position': 'none'},
            'no mask',
        ),
    ],
)
def test_impossible_encoders_are_refused(model: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_model(LENGTH, **model)


def test_an_encoders_branches_start_as_its_own_depth_says() -> None:
    """By 1/√(2·depth), which for four times as many layers is half of the decoder's."""
    model = small_model(LENGTH, encoder_depth=8, cross='attention', width=64, init='gpt2')
    params = nn.unbox(quick_jit(lambda: init_params(model, jax.random.key(0)))())
    stds = [
        np.std(side['layers']['block_0']['ffn']['out']['weight'])
        for side in (params['encoder']['backbone'], params['backbone'])
    ]
    np.testing.assert_allclose(stds, [0.02 / 4, 0.02 / 2], rtol=0.02)


def test_the_kernel_of_cross_attention_is_named_too() -> None:
    """On a GPU in half precision cuDNN serves it where dropout keeps it from the other layers."""
    model = {'encoder_depth': 2, 'cross': 'attention', 'head_dim': 8, 'dtype': 'bfloat16'}
    for mixer, name in (('attention(dropout=0.1)', 'cudnn+reference'), ('attention', 'cudnn')):
        assert kernel_name(small_config(LENGTH, mixer=mixer, **model).model, 'gpu') == name


def test_a_source_and_an_encoder_need_each_other() -> None:
    tokens = jnp.asarray(random_tokens(1, LENGTH))
    alone = small_model(LENGTH)
    with pytest.raises(UserError, match='has no encoder for a source'):
        apply(alone, random_params(alone), tokens, source=Source(tokens))
    model, params = encoder_decoder()
    with pytest.raises(UserError, match='needs a source'):
        apply(model, params, tokens)
