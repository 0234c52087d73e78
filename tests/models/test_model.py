"""Whole models: causality, packing, decoding with a cache, remat, unrolling, slots and errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.layers.blocks import BLOCKS
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.feedforward import FeedForward
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.kernel import Request
from bigmodel.layers.kernels import KERNELS
from bigmodel.layers.losses import add_loss, report
from bigmodel.layers.masks import MASKS
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import POSITIONS
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import WEIGHTS
from bigmodel.models.build import SLOTS, build_model, kernel_name
from bigmodel.models.model import Model, apply, apply_cached, apply_with_losses, init_params
from bigmodel.models.remat import REMAT
from bigmodel.specs import make
from tests.small import (
    CPU_KERNELS,
    assert_trees_close,
    forward,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

LENGTH = 12
# Of parts that need some, or whose defaults are for longer rows.
ARGUMENTS = {
    'window': '(4)',
    'chunked': '(4)',
    'prefix': '(4)',
    't5': '(num_buckets=8, max_distance=10)',
    'fire': '(threshold=4)',
    # Places for every token: with fewer, tokens depend on those before them in the row.
    'switch': '(experts=4, capacity=4.0)',
}
MASK_SPECS = [name + ARGUMENTS.get(name, '') for name in MASKS]
CAUSAL = [spec for spec in MASK_SPECS if make(MASKS, spec, 'mask').causal]
CAUSAL_FFNS = [name + ARGUMENTS.get(name, '') for name, ffn in FFNS.items() if ffn.causal]
# What a causal mask alone allows, and what it refuses.
FOR_ANY_MASK = [name for name, position in POSITIONS.items() if not position.for_causal]
# Logits are of order 1 to 10, from two layers of float32 sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


@functools.cache
def built(mixer: str, position: str, mask: str, pattern: tuple[str, ...] = ()) -> tuple[Model, Any]:
    """A small model with random parameters; compiled functions are shared by the tests."""
    model = small_model(
        LENGTH,
        mixer=mixer,
        position=position + ARGUMENTS.get(position, ''),
        mask=mask,
        pattern=pattern,
        max_length=LENGTH,
        dtype='float32',
        num_kv_heads=4 if mixer.startswith('mla') else 2,  # no groups
    )
    return model, random_params(model)


def logits(
    model: Model, params: Any, tokens: Any, positions: Any = None, segments: Any = None
) -> Any:
    """The whole rows at once; one document a row by default."""
    positions = slots(*tokens.shape) if positions is None else positions
    segments = np.ones_like(tokens) if segments is None else segments
    arrays = (jnp.asarray(x) for x in (tokens, positions, segments))
    return np.asarray(forward(model)(params, *arrays))


PATTERNS = [
    ('window(4)', 'causal'),
    # Rotation in the window layer alone; a bias in the other one.
    ('layer(mask="window(4)", position="rope")', 'layer(position="alibi", ffn="mlp")'),
]
# Every part once, beside the plainest others; not their product, which grows too fast.
STACKS = [
    *(('attention', position, 'causal', ()) for position in POSITIONS),
    # Frequencies that depend on the length of the row, which is twice the original one.
    ('attention', 'rope(scaling="dynamic_ntk", original_length=6)', 'causal', ()),
    *(('attention', 'rope', mask, ()) for mask in CAUSAL if mask != 'causal'),
    *((mixer, 'none', 'causal', ()) for mixer in MIXERS),
    *((f'attention(weights="{weights}")', 'rope', 'causal', ()) for weights in WEIGHTS),
    ('mla(rank=8, rope_dim=4, q_rank=6)', 'rope', 'causal', ()),
    ('differential', 'alibi', 'window(4)', ()),
    ('attention(weights="softmax(cap=2)", gate=True)', 'rope', 'causal', ()),
    *(('attention', 'none', 'causal', pattern) for pattern in PATTERNS),
    *(('attention', 'none', 'causal', (f'layer(ffn="{ffn}")',)) for ffn in CAUSAL_FFNS),
    *(('attention', 'none', 'causal', (f'layer(block="{block}")',)) for block in BLOCKS),
]
IDS = ['-'.join([*s[:3], *s[3]]) for s in STACKS]


@pytest.mark.parametrize('stack', STACKS, ids=IDS)
def test_later_tokens_do_not_change_earlier_logits(stack: tuple) -> None:
    model, params = built(*stack)
    tokens = random_tokens(1, LENGTH)
    base = logits(model, params, tokens)
    for i in (1, 6, LENGTH - 1):
        changed = tokens.copy()
        changed[0, i] = (changed[0, i] + 1) % 32
        moved = np.abs(logits(model, params, changed) - base)[0].max(-1)
        assert not moved[:i].any(), f'token {i} reaches logits {np.flatnonzero(moved[:i])}'
        assert moved[i] > 1e-3


@pytest.mark.parametrize('position', FOR_ANY_MASK)
def test_without_a_causal_mask_later_tokens_do_change_logits(position: str) -> None:
    """The test above can fail."""
    model, params = built('attention', position, 'full')
    tokens = random_tokens(1, LENGTH)
    changed = tokens.copy()
    changed[0, -1] = (changed[0, -1] + 1) % 32
    moved = np.abs(logits(model, params, changed) - logits(model, params, tokens))[0].max(-1)
    assert (moved > 1e-4).all()


@pytest.mark.parametrize('stack', STACKS, ids=IDS)
def test_packed_documents_have_the_logits_of_each_alone(stack: tuple) -> None:
    model, params = built(*stack)
    packed = random_tokens(1, LENGTH)
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3])
    positions = np.array([[*range(5), *range(4), 0, 0, 0]])
    together = logits(model, params, packed, positions, segments)
    for number, begin, end in ((1, 0, 5), (2, 5, 9)):
        alone = np.zeros_like(packed)
        alone[0, : end - begin] = packed[0, begin:end]
        own = np.array([[number] * (end - begin) + [0] * (LENGTH - end + begin)])
        apart = logits(model, params, alone, None, own)
        np.testing.assert_allclose(together[0, begin:end], apart[0, : end - begin], **CLOSE)


@functools.cache
def decoder(model: Model) -> Any:
    """The compiled `(params, cache, tokens, positions, segments) -> (logits, cache)`."""
    run = lambda p, c, t, pos, seg: apply_cached(model, p, c, t, LENGTH, pos, seg)  # noqa: E731
    return quick_jit(run)


def decoded(model: Model, params: Any, *arrays: np.ndarray, prefill: int) -> np.ndarray:
    """Logits of a prefill of several tokens, then of one token at a time."""
    cache, found = None, []
    for begin, end in [(0, prefill), *((i, i + 1) for i in range(prefill, LENGTH))]:
        pieces = (jnp.asarray(x[:, begin:end]) for x in arrays)
        out, cache = decoder(model)(params, cache, *pieces)
        found.append(np.asarray(out))
    return np.concatenate(found, 1)


@pytest.mark.parametrize('stack', STACKS, ids=IDS)
def test_decoding_with_a_cache_is_the_full_forward_pass(stack: tuple) -> None:
    """Row 0 is whole; row 1 is padded on the left, as shorter prompts of a batch are."""
    model, params = built(*stack)
    tokens = random_tokens(2, LENGTH, seed=1)
    segments, positions = np.ones_like(tokens), slots(2, LENGTH)
    segments[1, :3] = 0
    positions[1] = np.maximum(np.arange(LENGTH) - 3, 0)
    full = logits(model, params, tokens, positions, segments)
    got = decoded(model, params, tokens, positions, segments, prefill=6)
    np.testing.assert_allclose(got[0], full[0], **CLOSE)
    np.testing.assert_allclose(got[1, 3:], full[1, 3:], **CLOSE)
    # The padding changes nothing: the same prompt at the start of a row.
    moved = np.roll(tokens, -3, 1)
    alone = logits(model, params, moved, None, np.array([[1] * LENGTH, [1] * 9 + [0] * 3]))
    np.testing.assert_allclose(got[1, 3:], alone[1, :9], **CLOSE)


@pytest.mark.parametrize('kernel', CPU_KERNELS)
def test_decoding_without_coordinates_counts_by_itself(kernel: str) -> None:
    model = small_model(LENGTH, kernel=kernel)
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    want = quick_jit(lambda p, t: apply(model, p, t))(params, tokens)
    step = quick_jit(lambda p, c, t: apply_cached(model, p, c, t, LENGTH + 2))
    first, cache = step(params, None, tokens[:, :7])
    second, _ = step(params, cache, tokens[:, 7:])
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), want, **CLOSE)


@pytest.mark.parametrize('kernel', CPU_KERNELS)
def test_slots_that_are_not_written_yet_are_never_seen(kernel: str) -> None:
    """With a mask that looks ahead, only the tokens that are there count."""
    model = small_model(LENGTH, kernel=kernel, mask='full')
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, 7))
    want = quick_jit(lambda p, t: apply(model, p, t))(params, tokens)
    got, _ = quick_jit(lambda p, t: apply_cached(model, p, None, t, LENGTH))(params, tokens)
    np.testing.assert_allclose(got, want, **CLOSE)


def loss_and_gradients(model: Model, params: Any) -> Any:
    tokens = jnp.asarray(random_tokens(2, LENGTH))

    def loss(params: Any) -> jax.Array:
        return jnp.mean(jax.nn.logsumexp(apply(model, params, tokens), -1))

    return quick_jit(jax.value_and_grad(loss))(params)


@functools.cache
def plain() -> Any:
    """A four-layer model without remat, rolled up."""
    model = small_model(LENGTH, depth=4, position='t5')
    return loss_and_gradients(model, random_params(model))


@pytest.mark.parametrize('remat', [r for r in REMAT if r != 'none'])
def test_remat_changes_neither_loss_nor_gradients(remat: str) -> None:
    model = small_model(LENGTH, depth=4, position='t5', remat=remat)
    # The same float32 operations, fused in another way.
    assert_trees_close(
        loss_and_gradients(model, random_params(model)), plain(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('unroll', [2, 4, 0])
def test_unrolling_changes_neither_parameters_nor_results(unroll: int) -> None:
    model = small_model(LENGTH, depth=4, position='t5', unroll=unroll)
    assert_trees_close(
        loss_and_gradients(model, random_params(model)), plain(), rtol=1e-4, atol=1e-6
    )


def test_remat_does_recompute() -> None:
    """The test above compares different programs: full remat has more matrix products."""

    def products(remat: str) -> int:
        model = small_model(LENGTH, remat=remat)
        step = jax.jit(jax.grad(lambda p: apply(model, p, tokens).sum()))
        return step.lower(random_params(model)).as_text().count('dot_general')

    tokens = jnp.asarray(random_tokens(1, LENGTH))
    assert products('full') > products('none')


def test_layers_are_stacked_on_a_leading_dim() -> None:
    model = small_model(LENGTH, depth=6, pattern=('window(2)', 'causal'))
    boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    layers = boxed['backbone']['layers']
    assert sorted(layers) == ['block_0', 'block_1']
    for box in jax.tree.leaves(layers, is_leaf=lambda x: hasattr(x, 'names')):
        assert (box.names[0], box.value.shape[0]) == ('layers', 3)


def test_shared_layers_are_layers_with_equal_parameters() -> None:
    shared = small_model(LENGTH, depth=4, share='all', pattern=('window(4)', 'causal'))
    apart = small_model(LENGTH, depth=4, pattern=('window(4)', 'causal'))
    params, tokens = random_params(shared), random_tokens(1, LENGTH)
    layers = params['backbone']['layers']
    twice = jax.tree.map(lambda w: jnp.stack([w, w]), layers)
    unshared = params | {'backbone': params['backbone'] | {'layers': twice}}
    want = logits(apart, unshared, tokens)
    np.testing.assert_allclose(logits(shared, params, tokens), want, **CLOSE)
    _, grads = loss_and_gradients(shared, params)
    _, each = loss_and_gradients(apart, unshared)
    summed = jax.tree.map(lambda g: g.sum(0), each['backbone']['layers'])
    assert_trees_close(grads['backbone']['layers'], summed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_value_residual_mixes_in_the_values_of_its_first_layer(remat: str) -> None:
    """By hand, on layers of which the first has another mixer."""
    layers = {'value': 'layer(mixer="value_residual")', 'plain': 'layer(mixer="attention")'}
    pattern = (layers['plain'], layers['value'], layers['value'])
    model = small_model(LENGTH, depth=3, pattern=pattern, position='none', remat=remat)
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    parts, here = params['backbone'], Coordinates.of(LENGTH)
    x, first = params['inputs']['tokens']['table'][tokens], None
    for i in range(3):
        layer = jax.tree.map(lambda w: w[0], parts['layers'][f'block_{i}'])
        attention = small_model(LENGTH, position='none').make_backbone.keywords['blocks'][0]()
        mixer = dict(layer['mixer'])
        if i:
            h = NORMS['rmsnorm'](1e-5).apply({'params': layer['mixer_norm']}, x)
            first = jnp.einsum('BLD,DGK->BLGK', h, mixer['v']['weight']) if i == 1 else first
            # λ₁·v₁ + λ₂·v is linear in v: as a matrix it is λ₂·W, plus what no matrix of h gives.
            own = jnp.einsum('BLD,DGK->BLGK', h, mixer['v']['weight'])
            v = mixer.pop('first_share') * first + mixer.pop('own_share') * own
            x = by_hand(attention, layer | {'mixer': mixer}, x, v, here)
        else:
            x = attention.apply({'params': layer}, x, Context(here, here))
    x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * parts['final_norm']['scale']
    want = x @ params['inputs']['tokens']['table'].T
    np.testing.assert_allclose(quick_jit(lambda: apply(model, params, tokens))(), want, **CLOSE)


def by_hand(block: nn.Module, params: Any, x: jax.Array, v: jax.Array, here: Coordinates) -> Any:
    """A block whose attention is given its values."""
    h = NORMS['rmsnorm'](1e-5).apply({'params': params['mixer_norm']}, x)
    q, k = (jnp.einsum('BLD,DHK->BLHK', h, params['mixer'][n]['weight']) for n in 'qk')
    o = Reference()(q, k, v, MASKS['causal'](), Context(here, here))
    x = x + jnp.einsum('BLHK,HKD->BLD', o, params['mixer']['out']['weight'])
    h = NORMS['rmsnorm'](1e-5).apply({'params': params['ffn_norm']}, x)
    ffn = block.ffn()
    return x + ffn.apply({'params': params['ffn']}, h)


def test_a_model_is_its_blocks_in_the_order_of_their_stack() -> None:
    """Embed, layer 0, layer 1, layer 2, normalise, unembed: by hand, without scan."""
    model = small_model(LENGTH, depth=3, position='sinusoidal')
    params, tokens = random_params(model), jnp.asarray(random_tokens(2, LENGTH))
    parts, here = params['backbone'], Coordinates.of(LENGTH)
    block = model.make_backbone.keywords['blocks'][0]()

    def by_hand() -> jax.Array:
        table = params['inputs']['tokens']['table']
        x = POSITIONS['sinusoidal']().embed(table[tokens], here.position)
        for i in range(3):
            layer = jax.tree.map(lambda w, i=i: w[i], parts['layers']['block_0'])
            x = block.apply({'params': layer}, x, Context(here, here))
        x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * parts['final_norm']['scale']
        return x @ table.T

    want = quick_jit(by_hand)()
    np.testing.assert_allclose(quick_jit(lambda: apply(model, params, tokens))(), want, **CLOSE)


def test_layers_start_with_different_weights() -> None:
    model = small_model(LENGTH)
    params = quick_jit(lambda: init_params(model, jax.random.key(0)))()
    weight = params['backbone']['layers']['block_0']['ffn']['in']['weight'].value
    assert np.abs(weight[0] - weight[1]).max() > 0.01


def test_pattern_masks_successive_layers() -> None:
    """(window(2), window(2)) looks 2 back in two layers; (window(2), causal) sees everything."""
    for pattern, reach in ((('window(2)', 'window(2)'), 2), (('window(2)', 'causal'), LENGTH - 1)):
        model, params = built('attention', 'rope', 'causal', pattern)
        tokens = random_tokens(1, LENGTH)
        changed = tokens.copy()
        changed[0, 0] = (changed[0, 0] + 1) % 32
        moved = np.abs(logits(model, params, changed) - logits(model, params, tokens))[0].max(-1)
        assert np.flatnonzero(moved > 1e-5).max() == reach


@pytest.mark.parametrize(
    ('slot', 'table'),
    [
        ('norm', NORMS),
        ('ffn', FFNS),
        ('block', BLOCKS),
        ('kernel', {k: KERNELS[k] for k in CPU_KERNELS}),
    ],
)
def test_every_variant_of_a_slot_runs_and_has_finite_gradients(slot: str, table: Any) -> None:
    for name, part in table.items():
        mask = 'causal' if getattr(part, 'causal', True) else 'full'
        model = small_model(LENGTH, **{'mask': mask, slot: name})
        loss, grads = loss_and_gradients(model, random_params(model))
        assert np.isfinite(loss), name
        for path, gradient in params_lib.flatten(grads).items():
            assert np.isfinite(gradient).all() and np.any(gradient), (name, path)


@pytest.mark.parametrize('position', POSITIONS)
def test_every_encodings_parameters_have_gradients(position: str) -> None:
    model, params = built('attention', position, 'causal')
    loss, grads = loss_and_gradients(model, params)
    assert np.isfinite(loss)
    for path, gradient in params_lib.flatten(grads).items():
        assert np.isfinite(gradient).all() and np.any(gradient), path


def test_every_slot_has_a_table_of_named_parts() -> None:
    tables = {'position': POSITIONS, 'mask': MASKS, 'norm': NORMS, 'ffn': FFNS, 'mixer': MIXERS}
    tables |= {'block': BLOCKS, 'kernel': KERNELS}
    assert all(SLOTS[slot] is table for slot, table in tables.items())


def test_dropout_is_on_exactly_with_a_key() -> None:
    tokens = jnp.asarray(random_tokens(2, LENGTH))
    silent, noisy = small_model(LENGTH), small_model(LENGTH, dropout=0.2)
    params = random_params(silent)
    run = quick_jit(lambda p, key: apply(noisy, p, tokens, dropout_key=key))
    without = quick_jit(lambda p: apply(noisy, p, tokens))(params)
    np.testing.assert_array_equal(without, quick_jit(lambda p: apply(silent, p, tokens))(params))
    once, again = (run(params, jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - without).max() > 0.01
    assert np.abs(once - run(params, jax.random.key(1))).max() > 0.01


def test_scaled_embeddings_are_multiplied_by_the_root_of_the_width() -> None:
    tokens = jnp.asarray(random_tokens(2, LENGTH))
    shape = {'position': 'sinusoidal', 'head': 'lm(tied=False)'}
    plain, scaled = small_model(**shape), small_model(inputs='tokens(scale=True)', **shape)
    params = random_params(plain)
    moved = jax.tree.map(lambda x: x, params)
    moved['inputs']['tokens']['table'] = 4.0 * params['inputs']['tokens']['table']
    got = quick_jit(lambda p: apply(scaled, p, tokens))(params)
    want = quick_jit(lambda p: apply(plain, p, tokens))(moved)
    np.testing.assert_allclose(got, want, **CLOSE)


def test_bfloat16_computes_in_half_precision_and_answers_in_float32() -> None:
    tokens = jnp.asarray(random_tokens(2, LENGTH))
    model = small_model(LENGTH, dtype='bfloat16')
    params = random_params(model)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    lowered = jax.jit(lambda p: apply(model, p, tokens)).lower(params)
    assert lowered.out_info.dtype == jnp.float32
    products = [line for line in lowered.as_text().splitlines() if 'dot_general' in line]
    assert products and all('bf16' in line for line in products)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ({'position': 'rop'}, "unknown model.position 'rop'. Did you mean 'rope'"),
        ({'position': 'rope(theta="x")'}, r'model.position: rope\(theta=...\): expected float'),
        ({'mask': 'causl'}, "unknown model.mask 'causl'"),
        ({'pattern': ('causal', 'causl')}, "unknown model.pattern entry .* 'causl'"),
        ({'pattern': ('causal',) * 3}, 'model.pattern has 3 layers, which does not divide'),
        ({'pattern': ('layer(maks="full")',)}, "unknown slot of layer.* Did you mean 'mask'"),
        ({'pattern': ('layer(mask=3)',)}, r'layer\(mask=...\) takes a spec string, got 3'),
        ({'pattern': ('layer("full")',)}, 'name the slots'),
        ({'pattern': ('layer(position="sinusoidal")',)}, 'added to the embeddings'),
        ({'norm': 'rms'}, "unknown model.norm 'rms'"),
        ({'ffn': 'mlp(activation="gelo")'}, "unknown activation 'gelo'"),
        ({'mixer': 'attention(biass=True)'}, "has no argument 'biass'. Did you mean 'bias'"),
        ({'mixer': 'attention(num_heads=3)'}, "has no argument 'num_heads'"),
        ({'position': 'xpos', 'mask': 'full'}, "model.position='xpos' fades .* model.mask='full'"),
        ({'position': 'xpos', 'pattern': ('full',)}, "which model.mask='full' shows"),
        ({'ffn': 'expert_choice'}, "model.ffn='expert_choice' lets later .* model.mask='causal'"),
        ({'block': 'sandwitch'}, "unknown model.block 'sandwitch'"),
        ({'head': 'lmm'}, "unknown model.head 'lmm'. Did you mean 'lm'"),
        ({'head': 'classifier'}, 'needs labelled data'),
        ({'share': 'some'}, "unknown model.share 'some'"),
        ({'ahead': 'mpt'}, "unknown model.ahead 'mpt'. Did you mean 'mtp'"),
        ({'ahead': 'mtp', 'mask': 'full'}, "predicts later tokens, which model.mask='full' shows"),
        ({'ahead': 'mtp', 'mixer': 'value_residual'}, "model.mixer='value_residual' reads earlier"),
        (
            {'ahead': 'mtp', 'inputs': 'patches(size=2)', 'head': 'lm(tied=False)'},
            "model.ahead='mtp' .* needs model.inputs='tokens', not 'patches",
        ),
        ({'init': 'gpt3'}, "unknown model.init 'gpt3'. Did you mean 'gpt2'"),
        ({'kernel': 'fused', 'mixer': 'attention(dropout=0.1)'}, 'cannot serve this model'),
        ({'kernel': 'fused', 'mixer': 'attention(weights="sinks")'}, 'needs softmax weights, but'),
        ({'mixer': 'attention(weights="sink")'}, "unknown attention.* Did you mean 'sinks'"),
        ({'mixer': 'mla'}, 'needs keys for each head, .* but model.num_kv_heads=2'),
        ({'mixer': 'mla(rope_dim=3)', 'num_kv_heads': 4}, 'needs a rope_dim .* rope_dim=3 is odd'),
        ({'mixer': 'differential', 'num_kv_heads': 1}, 'needs pairs of heads, but'),
        ({'remat': 'ful'}, "unknown model.remat 'ful'. Did you mean 'full'"),
        ({'dropout': 1.0}, r'model.dropout=1.0 must be in \[0, 1\)'),
        ({'dtype': 'float8'}, "unknown model.dtype 'float8'"),
        ({'vocab_size': 16}, 'tokenizer and task have 32 tokens but model.vocab_size=16'),
        ({'head_dim': 5}, 'head_dim=5 is odd'),
        ({'width': 18}, 'model.width=18 is not a multiple of model.num_heads=4'),
        ({'num_kv_heads': 3}, 'model.num_kv_heads=3 does not divide model.num_heads=4'),
        ({'depth': -1}, 'model.depth must not be negative'),
        ({'size': 'tinny'}, "unknown model.size 'tinny'. Did you mean 'tiny'"),
    ],
)
def test_impossible_models_are_refused_before_anything_is_compiled(
    model: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_model(small_config(**model).model, 32, 0, 'cpu')


@pytest.mark.parametrize(('spec', 'name'), [('auto', 'reference'), ('fused', 'fused')])
def test_kernel_name_is_what_the_model_uses(spec: str, name: str) -> None:
    assert kernel_name(small_config(kernel=spec).model, 'cpu') == name


@pytest.mark.parametrize('aligned', [True, False], ids=['whole_rows', 'cache'])
def test_fused_kernels_get_flags_for_whole_rows_only(
    aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask of L² booleans is not made where flags say the same, also under scan and remat."""
    seen = []
    real = jax.nn.dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> jax.Array:
        seen.append((kwargs['is_causal'], kwargs['mask'] is None))
        return real(*args, **kwargs)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', spy)
    model = small_model(LENGTH, kernel='fused', remat='full')
    params, tokens = random_params(model), jnp.asarray(random_tokens(1, LENGTH))
    seen.clear()
    if aligned:
        jax.eval_shape(lambda p: apply(model, p, tokens), params)
    else:
        jax.eval_shape(lambda p: apply_cached(model, p, None, tokens, LENGTH)[0], params)
    assert set(seen) == {(aligned, aligned)}


def test_a_kernel_can_refuse_a_bias_that_is_given_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocks(Reference):
        def refusal(self, request: Request) -> str:
            return 'it evaluates biases by blocks' if request.given_bias else ''

    monkeypatch.setitem(KERNELS, 'blocks', Blocks)
    small_model(kernel='blocks', position='kerple')
    with pytest.raises(UserError, match=r"model.kernel='blocks' cannot serve .* by blocks"):
        small_model(kernel='blocks', position='cope')


def test_the_table_of_cope_is_each_layers_own() -> None:
    params = random_params(small_model(LENGTH, position='cope(num_positions=5)'))['backbone']
    table = params['layers']['block_0']['mixer']['position']['counts']['table']
    assert table.shape == (2, 5, 4)  # layers, counts, head_dim
    assert 'position' not in params


def test_layers_of_a_pattern_have_encodings_of_their_own() -> None:
    """A rotation in the first layer, T5's table for the second; nothing is added to embeddings."""
    pattern = ('layer(position="rope")', 'layer(position="t5(num_buckets=8)")')
    mixed = small_model(LENGTH, position='none', pattern=pattern)
    plain = small_model(LENGTH, position='none', pattern=('causal', 'causal'))
    params, tokens = random_params(mixed), random_tokens(1, LENGTH)
    table = params['backbone'].pop('layer_positions_1')
    assert table['buckets']['table'].shape == (8, 4)
    zero = {'layer_positions_1': jax.tree.map(jnp.zeros_like, table)}
    full = {'layer_positions_1': table}
    with_bias = logits(mixed, params | {'backbone': params['backbone'] | full}, tokens)
    without = logits(mixed, params | {'backbone': params['backbone'] | zero}, tokens)
    neither = logits(plain, params, tokens)
    assert np.abs(with_bias - without).max() > 1e-3 and np.abs(without - neither).max() > 1e-3


def test_what_layers_add_to_the_loss_is_summed_and_what_they_report_averaged() -> None:
    class Costly(FeedForward):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            add_loss(self, 'cost', jnp.mean(x) * 0 + 0.5)
            report(self, 'seen', jnp.mean(x) * 0 + 0.25)
            return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FFNS, 'costly', Costly)
        model = small_model(LENGTH, depth=4, ffn='costly', remat='full', pattern=('causal',) * 2)
    params, tokens = random_params(model), jnp.asarray(random_tokens(1, LENGTH))
    outputs, losses, reports = quick_jit(lambda p: apply_with_losses(model, p, tokens))(params)
    assert losses == {'cost': 2.0} and reports == {'seen': 0.25}
    np.testing.assert_array_equal(outputs, quick_jit(lambda p: apply(model, p, tokens))(params))
