"""The reference kernel against PyTorch; every kernel against the reference; refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.layers.biases import AlibiBias, alibi_slopes
from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Bias, Context, Coordinates
from bigmodel.layers.fused import Fused
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.kernels import KERNELS, choose
from bigmodel.layers.masks import MASKS, Mask, Or, Prefix, SameSegment
from bigmodel.layers.reference import Reference, attend
from bigmodel.specs import make
from tests.golden.values import golden
from tests.small import CPU, CPU_KERNELS, quick_jit

# Golden values are float64; products of 8 features and softmax rows of 6 keys in float32.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
MASK_ARGUMENTS = {'window': '(3)', 'chunked': '(3)', 'prefix': '(3)'}  # of masks that need some
SPECS = [name + MASK_ARGUMENTS.get(name, '') for name in MASKS]
B, L, H, K = 2, 7, 4, 8
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 3]])


@dataclasses.dataclass(frozen=True)
class TableBias(Bias):
    """A bias with one entry for every head and pair, so that its gradient can be seen."""

    table: jax.Array

    def __call__(self, queries: Coordinates, keys: Coordinates) -> jax.Array:
        return self.table


@functools.cache
def inputs(kv_heads: int, start: int = 0) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """q, k, v and a cotangent of the output."""
    rng = np.random.default_rng(kv_heads)
    q = rng.standard_normal((B, L - start, H, K))
    k, v = rng.standard_normal((2, B, L, kv_heads, K))
    return tuple(jnp.asarray(x, jnp.float32) for x in (q, k, v, rng.standard_normal(q.shape)))


def context(bias: bool, segments: bool, start: int = 0) -> Context:
    """Queries are the last slots from `start` on."""
    segment = SEGMENTS if segments else None
    keys = Coordinates.of(L, segment=segment)
    if not start:
        queries = keys
    else:
        queries = Coordinates.of(
            L - start, segment=segment[:, start:] if segments else None, start=start
        )
    return Context(
        queries, keys, AlibiBias(jnp.asarray(alibi_slopes(H))) if bias else None, not start
    )


def value_and_gradients(kernel: Kernel, mask: Mask, where: Context, arrays: tuple) -> tuple:
    """(output, (dq, dk, dv)) in one compiled program."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> tuple:
        output, vjp = jax.vjp(lambda *qkv: kernel(*qkv, mask, where), q, k, v)
        return output, vjp(cotangent)

    return quick_jit(run)(*arrays)


def heads_second(x: jax.Array) -> jax.Array:
    """PyTorch's (B, H, L, K)."""
    return x.swapaxes(1, 2)


@pytest.mark.parametrize('kv_heads', [4, 2])
@pytest.mark.parametrize('case', ['full', 'causal', 'window_3', 'causal_segments'])
def test_reference_is_pytorchs_attention(case: str, kv_heads: int) -> None:
    values = golden(f'sdpa/{case}_{kv_heads}')
    segments = jnp.asarray(golden('sdpa')['segments']) if case.endswith('segments') else None
    here = Coordinates.of(values['q'].shape[2], segment=segments)
    spec = {'window_3': 'window(3)', 'causal_segments': 'causal'}.get(case, case)
    mask = make(MASKS, spec, 'mask') & SameSegment()
    arrays = tuple(heads_second(values[n]) for n in ('q', 'k', 'v', 'cotangent'))
    output, gradients = value_and_gradients(Reference(), mask, Context(here, here), arrays)
    np.testing.assert_allclose(heads_second(output), values['output'], **CLOSE)
    for name, gradient in zip('qkv', gradients, strict=True):
        np.testing.assert_allclose(heads_second(gradient), values[f'd_{name}'], **CLOSE)


def test_reference_bias_and_its_gradient_are_pytorchs() -> None:
    values = golden('sdpa/bias')
    here = Coordinates.of(values['q'].shape[2])
    q, k, v, dy = (heads_second(values[n]) for n in ('q', 'k', 'v', 'cotangent'))

    def run(table: jax.Array) -> jax.Array:
        return Reference()(q, k, v, CPU.mask, Context(here, here, TableBias(table)))

    output, vjp = jax.vjp(jax.jit(run), values['bias'])
    np.testing.assert_allclose(heads_second(output), values['output'], **CLOSE)
    np.testing.assert_allclose(vjp(dy)[0], values['d_bias'], **CLOSE)


HALF = {'platform': 'gpu', 'dtype': 'bfloat16'}
OTHERS = [name for name in CPU_KERNELS if name != 'reference']


@pytest.mark.parametrize('segments', [False, True], ids=['one_document', 'segments'])
@pytest.mark.parametrize('kv_heads', [4, 2, 1], ids=['mha', 'gqa', 'mqa'])
@pytest.mark.parametrize('bias', [False, True], ids=['no_bias', 'bias'])
@pytest.mark.parametrize('mask', [*SPECS, 'causal | window(2)'])
@pytest.mark.parametrize('name', OTHERS)
def test_kernels_agree_with_reference(
    name: str, mask: str, bias: bool, kv_heads: int, segments: bool
) -> None:
    parts = [make(MASKS, part, 'mask') for part in mask.split(' | ')]
    mask_part = functools.reduce(Or, parts) & SameSegment()
    where, arrays = context(bias, segments), inputs(kv_heads)
    want = value_and_gradients(Reference(), mask_part, where, arrays)
    got = value_and_gradients(KERNELS[name](), mask_part, where, arrays)
    # Both are float32 with other orders of summation over at most 8 terms.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), got, want)


@pytest.mark.parametrize('kernel', [Blockwise(2), Blockwise(3), Fused()], ids=str)
def test_kernels_see_the_prefix_of_a_batch(kernel: Kernel) -> None:
    prefix = jnp.array([[1, 1, 0, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0]], bool)
    here = Coordinates.of(L, segment=SEGMENTS, prefix=prefix)
    where, mask, arrays = Context(here, here), Prefix() & SameSegment(), inputs(2)
    want = value_and_gradients(Reference(), mask, where, arrays)
    got = value_and_gradients(kernel, mask, where, arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), got, want)
    causal = value_and_gradients(Reference(), CPU.mask & SameSegment(), where, arrays)
    assert np.abs(want[0] - causal[0]).max() > 0.1


@pytest.mark.parametrize('segments', [False, True], ids=['one_document', 'segments'])
@pytest.mark.parametrize('mask', SPECS)
@pytest.mark.parametrize('name', CPU_KERNELS)
def test_later_queries_get_the_same_rows(name: str, mask: str, segments: bool) -> None:
    """Queries that start at slot 4 of the keys, as in decoding."""
    mask_part, kernel = make(MASKS, mask, 'mask') & SameSegment(), KERNELS[name]()
    q, k, v, _ = inputs(2)
    full = quick_jit(lambda: kernel(q, k, v, mask_part, context(True, segments)))()
    last = quick_jit(lambda: kernel(q[:, 4:], k, v, mask_part, context(True, segments, 4)))()
    np.testing.assert_allclose(last, full[:, 4:], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('name', CPU_KERNELS)
def test_rows_without_a_key_stay_finite(name: str) -> None:
    """Padding (segment 0) that sees no slot at all, in values and gradients."""
    queries = Coordinates.of(L, segment=jnp.zeros((B, L), int))
    where = Context(queries, Coordinates.of(L, segment=jnp.ones((B, L), int)))
    got = value_and_gradients(KERNELS[name](), SameSegment(), where, inputs(4))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))


@pytest.mark.parametrize('name', CPU_KERNELS)
def test_bfloat16_inputs_give_bfloat16_near_float32(name: str) -> None:
    arrays = inputs(2)
    half = tuple(x.astype(jnp.bfloat16) for x in arrays)
    rounded = tuple(x.astype(jnp.float32) for x in half)
    want = value_and_gradients(Reference(), CPU.mask, context(True, True), rounded)[0]
    got = value_and_gradients(KERNELS[name](), CPU.mask, context(True, True), half)[0]
    assert got.dtype == jnp.bfloat16
    # Logits of up to 5 rounded to 8 bits move weights by 2 %; values are up to 3.
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0, atol=0.06)


def test_dropout_of_weights_has_the_right_mean_and_rate() -> None:
    q, k, _, _ = inputs(4)
    ones = jnp.ones((B, L, 4, K))
    where = context(False, False)
    mask = make(MASKS, 'full', 'mask')
    run = quick_jit(jax.vmap(lambda key: Reference()(q, k, ones, mask, where, 0.25, key)[..., 0]))
    got = np.asarray(run(jax.random.split(jax.random.key(0), 2000)))
    # Each entry is a mean of 2000 draws with std < 0.6: 5 sigma is 0.07.
    np.testing.assert_allclose(got.mean(0), np.ones((B, L, 4)), atol=0.07)
    np.testing.assert_allclose(got.mean(), 1, atol=0.005)
    # The variance of Σp·keep/0.75 is Σp²·(0.25/0.75).
    p = quick_jit(
        lambda: Reference()(
            q, k, jnp.broadcast_to(jnp.eye(L, K)[None, :, None], ones.shape), mask, where
        )
    )()
    want = (np.asarray(p) ** 2).sum(-1) / 3
    np.testing.assert_allclose(got.var(0).mean(), want.mean(), rtol=0.05)


@pytest.mark.parametrize('dropped', [False, True])
def test_attend_backward_is_autodiffs(dropped: bool) -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 2, 6, 4), (2, 2, 5, 4), (2, 2, 5, 4), (1, 2, 6, 5), (2, 1, 6, 5)]
    q, k, v, *terms = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    keep = jnp.asarray(rng.integers(0, 2, (2, 2, 6, 5)), jnp.float32) * 2 if dropped else None

    def plain(q: jax.Array, k: jax.Array, v: jax.Array, terms: tuple) -> jax.Array:
        p = jnp.exp(jnp.einsum('BGMK,BGSK->BGMS', q, k) + terms[0] + terms[1])
        p = p / p.sum(-1, keepdims=True)
        return (p if keep is None else p * keep) @ v

    arguments = q, k, v, tuple(terms)
    got, got_vjp = jax.vjp(lambda *a: attend(*a, keep), *arguments)
    want, want_vjp = jax.vjp(plain, *arguments)
    do = jnp.asarray(rng.standard_normal(want.shape), jnp.float32)
    got, want = (jax.tree.leaves((x, vjp(do))) for x, vjp in ((got, got_vjp), (want, want_vjp)))
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, **CLOSE)


@pytest.mark.parametrize(
    ('spec', 'change', 'reason'),
    [
        ('fused', {'dropout': 0.1}, r"'fused' .*dropout .*0\.1"),
        ('fused', {'dtype': 'float16'}, r"'fused' .*a CPU .*float16"),
        ('blockwise', {'dropout': 0.1}, r"'blockwise' .*dropout .*0\.1"),
        ('cudnn', {}, 'cuDNN needs a GPU, this is cpu'),
        ('cudnn', {'platform': 'tpu'}, 'cuDNN needs a GPU, this is tpu'),
        ('cudnn', {'platform': 'gpu'}, 'needs bfloat16 or float16.*float32'),
        ('cudnn', HALF | {'dropout': 0.1}, r"'cudnn' .*dropout .*0\.1"),
        ('cudnn', HALF | {'head_dim': 160}, 'a multiple of 8 up to 128, these are 160'),
        ('cudnn', HALF | {'head_dim': 12}, 'a multiple of 8 up to 128, these are 12'),
        ('splash', {}, 'it needs a TPU, this is cpu'),
        ('fusde', {}, "unknown model.kernel 'fusde'. Did you mean 'fused'"),
        ('auto(1)', {}, "unknown model.kernel 'auto'"),
    ],
)
def test_a_kernel_that_cannot_serve_is_refused(spec: str, change: dict, reason: str) -> None:
    request = Request(**(vars(CPU) | change))
    with pytest.raises(UserError, match=reason):
        choose(spec, request)


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        ({}, 'reference'),
        ({'platform': 'gpu'}, 'fused'),
        ({'platform': 'gpu', 'dropout': 0.1}, 'reference'),
        (HALF, 'cudnn'),
        (HALF | {'head_dim': 160}, 'fused'),
        (HALF | {'dropout': 0.1}, 'reference'),
        ({'platform': 'tpu', 'dtype': 'bfloat16'}, 'reference'),
    ],
)
def test_auto_takes_the_first_that_serves(change: dict, name: str) -> None:
    chosen, kernel = choose('auto', Request(**(vars(CPU) | change)))
    assert (chosen, type(kernel)) == (name, KERNELS[name])


@pytest.mark.parametrize('kernel', [Fused(), Blockwise()])
def test_kernels_without_dropout_never_skip_it_silently(kernel: Kernel) -> None:
    q, k, v, _ = inputs(4)
    with pytest.raises(UserError, match='has no dropout'):
        kernel(q, k, v, CPU.mask, context(False, False), 0.1, jax.random.key(0))


def test_every_kernel_is_held_here_or_in_a_test_of_its_own() -> None:
    """cuDNN needs a GPU: here it is held to what it refuses, and `model.check_kernel` is there."""
    assert set(KERNELS) == {*CPU_KERNELS, 'cudnn', 'splash'}
    assert set(CPU_KERNELS) == {'reference', 'fused', 'blockwise', 'ring'}
