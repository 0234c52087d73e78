"""The TPU kernel, interpreted on a CPU, against the reference; what it refuses; meshes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.layers import splash
from bigmodel.layers.biases import AlibiBias, alibi_slopes
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.kernels import choose
from bigmodel.layers.masks import MASKS, Causal, Mask, SameSegment
from bigmodel.layers.reference import Reference
from bigmodel.layers.splash import Splash
from bigmodel.layers.weights import WEIGHTS, Normalised, Weights
from bigmodel.sharding import make_sharding
from bigmodel.specs import make
from tests.small import quick_jit

# float32 with another order of summation; gradients sum up to 300 products of some 3 in size.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
HERE = Splash(block_size=128, interpret=True)
B, H, K = 2, 4, 8
TPU = Request(Causal(), False, 0.0, 'tpu', 'bfloat16')
SINKS = Normalised(jnp.array([0.5, -1.0, 2.0, 0.0]))
PACKED = np.array([[0.3, 0.6], [0.5, 0.9]])  # where a row's second and third document begin


def arrays(L: int, S: int, G: int) -> tuple[jax.Array, ...]:
    """q, k, v and a cotangent of the output."""
    rng = np.random.default_rng(L + S + G)
    shapes = (B, L, H, K), (B, S, G, K), (B, S, G, K), (B, L, H, K)
    return tuple(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)


def coordinates(length: int, packed: bool) -> Coordinates:
    """Rows of one document, or of two and padding."""
    starts = (PACKED * length).astype(int)
    segment = (np.arange(length) >= starts[:, :1]) * 1 + 1
    segment = np.where(np.arange(length) >= starts[:, 1:], 0, segment)
    return Coordinates.of(length, segment=jnp.asarray(segment, jnp.int32) if packed else None)


def both(kernel: Kernel, mask: Mask, where: Context, weights: Weights, arrays: tuple) -> tuple:
    """The output and the gradients of q, k, v and of the weights' sinks."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, dy: jax.Array, weights: Weights) -> tuple:
        attend = lambda q, k, v, w: kernel(q, k, v, mask & SameSegment(), where, weights=w)  # noqa: E731
        output, vjp = jax.vjp(attend, q, k, v, weights)
        return output, vjp(dy)

    return quick_jit(run)(*arrays, weights)


def assert_leaves_close(got: tuple, want: tuple) -> None:
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, **CLOSE)


@pytest.mark.parametrize(
    ('mask', 'length', 'kv_heads', 'packed', 'weights'),
    [
        ('causal', 300, 2, True, Normalised()),
        ('causal', 128, 1, False, Normalised(cap=2.0)),
        ('window(40)', 256, 4, True, SINKS),
        ('window(150)', 300, 2, False, SINKS.replace(cap=3.0)),
        ('full', 140, 2, True, Normalised()),
        ('full', 7, 4, False, SINKS),
    ],
)
def test_it_is_the_reference(
    mask: str, length: int, kv_heads: int, packed: bool, weights: Weights
) -> None:
    """Several blocks, padded ones, grouped heads, documents, soft-caps and sinks."""
    at, part = coordinates(length, packed), make(MASKS, mask, 'mask')
    where, inputs = Context(at, at, aligned=True), arrays(length, length, kv_heads)
    want = both(Reference(), part, where, weights, inputs)
    assert_leaves_close(both(HERE, part, where, weights, inputs), want)


def test_a_source_of_another_length_is_read_whole() -> None:
    where = Context(coordinates(20, True), coordinates(150, True))
    mask, inputs = make(MASKS, 'full', 'mask'), arrays(20, 150, 2)
    want = both(Reference(), mask, where, Normalised(), inputs)
    assert_leaves_close(both(HERE, mask, where, Normalised(), inputs), want)


def test_later_queries_are_the_references() -> None:
    """While decoding: bit for bit, so nothing else can have computed them."""
    q, k, v, _ = arrays(12, 12, 2)
    keys = Coordinates.of(12)
    where = Context(Coordinates.of(4, start=8), keys)
    run = lambda kernel: kernel(q[:, 8:], k, v, Causal(), where)  # noqa: E731
    np.testing.assert_array_equal(run(HERE), run(Reference()))
    assert choose('splash', TPU)[0] == 'splash (decoding: reference)'


@pytest.mark.parametrize(
    ('mesh', 'rules'), [('data=2,tensor=2', 'tensor'), ('data=2', 'dp'), ('fsdp=2', 'fsdp')]
)
def test_meshes_give_the_same(mesh: str, rules: str) -> None:
    """Batch and heads are split by hand; sinks too, whose gradient is a sum over the batch."""
    at, inputs = coordinates(140, True), arrays(140, 140, 2)
    where = Context(at, at, aligned=True)
    want = both(Reference(), Causal(), where, SINKS, inputs)
    with make_sharding(mesh, rules).active():
        assert_leaves_close(both(HERE, Causal(), where, SINKS, inputs), want)


def test_a_kernel_on_a_mesh_sees_its_own_heads_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], splash._attend

    def spy(*args: Any) -> jax.Array:
        seen.append([x.shape for x in args[3:6]])
        return real(*args)

    monkeypatch.setattr(splash, '_attend', spy)
    q, k, v, _ = arrays(128, 128, 2)
    at = coordinates(128, True)
    with make_sharding('data=2,tensor=2', 'tensor').active():
        run = lambda *a: HERE(*a, Causal(), Context(at, at, aligned=True))  # noqa: E731
        jax.eval_shape(run, q, k, v)
    assert seen == [[(1, 2, 128, K), (1, 1, 128, K), (1, 1, 128, K)]]


@pytest.mark.parametrize(
    ('size', 'length', 'block'),
    [(512, 2048, 512), (512, 640, 128), (256, 768, 256), (384, 768, 384), (512, 128, 128)],
)
def test_blocks_divide_the_row(size: int, length: int, block: int) -> None:
    assert Splash(size).block(length) == block


@pytest.mark.parametrize(
    ('spec', 'change', 'reason'),
    [
        ('splash', {'platform': 'cpu'}, 'it needs a TPU, this is cpu'),
        ('splash', {'bias': True}, 'it takes no bias, and model.position adds one'),
        ('splash', {'given_bias': True}, 'it takes no bias'),
        ('splash', {'dropout': 0.1}, r'no dropout of attention weights \(asked: 0.1\)'),
        ('splash', {'mask': make(MASKS, 'chunked(4)', '')}, r'causal, window and full.*Chunked'),
        ('splash', {'mask': make(MASKS, 'prefix(4)', '')}, r'causal, window and full.*Prefix'),
        ('splash(block_size=100)', {}, 'block_size=100 is not a multiple of 128'),
        (
            'splash',
            {'weights': make(WEIGHTS, 'sigmoid', '', max_length=8)},
            'divided by their sum, but attention asks for Sigmoid',
        ),
    ],
)
def test_what_it_cannot_serve_is_refused(spec: str, change: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        choose(spec, Request(**(vars(TPU) | change)))


def test_calls_that_it_cannot_serve_raise() -> None:
    q, k, v, _ = arrays(8, 8, 4)
    at = Coordinates.of(8)
    where = Context(at, at, aligned=True)
    sigmoid = make(WEIGHTS, 'sigmoid', '', max_length=8)()
    with pytest.raises(UserError, match='divided by their sum'):
        HERE(q, k, v, Causal(), where, weights=sigmoid)
    with pytest.raises(UserError, match='no dropout'):
        HERE(q, k, v, Causal(), where, 0.1, jax.random.key(0))
    with pytest.raises(UserError, match='takes no bias'):
        biased = where.replace(bias=AlibiBias(jnp.asarray(alibi_slopes(H))))
        HERE(q, k, v, Causal(), biased)
    with pytest.raises(UserError, match='causal, window and full'):
        HERE(q, k, v, make(MASKS, 'chunked(4)', ''), where)
