"""Ways from logits to weights against loops over numpy rows; kernels agree on them or refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.layers.biases import AlibiBias, T5Bias, alibi_slopes
from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.fused import Fused
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.kernels import KERNELS, choose
from bigmodel.layers.masks import Causal, Mask, SameSegment
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import WEIGHTS, Elementwise, Normalised, Weights
from bigmodel.specs import make
from tests.small import quick_jit

B, L, H, G, K = 2, 7, 4, 2, 8
SINKS = jnp.array([0.5, -1.0, 2.0, 0.0])
CHOICES: dict[str, Weights] = {
    'softmax': Normalised(),
    'softmax(cap=1.5)': Normalised(cap=1.5),
    'off_by_one': Normalised(jnp.zeros(H)),
    'sinks': Normalised(SINKS),
    'sigmoid': Elementwise(-math.log(16)),
}
MERGED = [spec for spec in CHOICES if spec != 'sigmoid']
CLOSE = {'rtol': 1e-5, 'atol': 2e-6}


def row_weights(spec: str, x: np.ndarray, head: int) -> np.ndarray:
    """The weights of the keys that a query of `head` sees, from their logits, as in the papers."""
    if spec == 'sigmoid':
        return 1 / (1 + np.exp(-(x - np.log(16))))
    if spec.startswith('softmax(cap'):
        x = 1.5 * np.tanh(x / 1.5)
    extra = {'off_by_one': 1.0, 'sinks': np.exp(np.asarray(SINKS)[head])}.get(spec, 0.0)
    return np.exp(x) / (np.exp(x).sum() + extra)


def arrays() -> tuple[jax.Array, ...]:
    """q, k, v and a cotangent of the output."""
    rng = np.random.default_rng(0)
    shapes = [(B, L, H, K), (B, L, G, K), (B, L, G, K), (B, L, H, K)]
    return tuple(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)


def here(segments: bool = False) -> Coordinates:
    segment = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 3]]) if segments else None
    return Coordinates.of(L, segment=segment)


def test_every_choice_is_tried() -> None:
    assert {spec.partition('(')[0] for spec in CHOICES} == set(WEIGHTS)


@pytest.mark.parametrize('spec', CHOICES)
def test_weights_are_the_papers_row_by_row(spec: str) -> None:
    q, k, v, _ = arrays()
    got = quick_jit(
        lambda: Reference()(q, k, v, Causal(), Context(here(), here()), weights=CHOICES[spec])
    )()
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    want = np.zeros((B, L, H, K))
    for b, i, h in np.ndindex(B, L, H):
        kv = h // (H // G)
        logits = k[b, : i + 1, kv] @ q[b, i, h] / math.sqrt(K)
        want[b, i, h] = row_weights(spec, logits, h) @ v[b, : i + 1, kv]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_parts_give_what_their_arguments_say() -> None:
    known = {'num_heads': H, 'max_length': 16}
    for spec, want in CHOICES.items():
        part = make(WEIGHTS, spec, 'weights', **known)
        params = {'params': {'sink': SINKS}} if spec == 'sinks' else {}
        got = part.apply(params)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(x, y)
        assert part.plain == got.plain


def gradients(kernel: object, mask: Mask, where: Context, weights: Weights) -> tuple:
    """The output, and the gradients of q, k, v, of the sinks and of the bias."""
    *inputs, cotangent = arrays()

    def run(inputs: list, bias: object, weights: Weights) -> jax.Array:
        return kernel(*inputs, mask, where.replace(bias=bias), weights=weights)

    def both() -> tuple:
        output, vjp = jax.vjp(run, inputs, where.bias, weights)
        return output, vjp(cotangent)

    return quick_jit(both)()


def assert_leaves_close(got: tuple, want: tuple) -> None:
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, **CLOSE)


BIASES = {
    'none': None,
    'alibi': AlibiBias(jnp.asarray(alibi_slopes(H))),
    't5': T5Bias(
        jnp.asarray(np.random.default_rng(3).standard_normal((8, H)), jnp.float32), 6, False
    ),
}


@pytest.mark.parametrize('segments', [False, True], ids=['one_document', 'segments'])
@pytest.mark.parametrize('bias', BIASES)
@pytest.mark.parametrize('spec', MERGED)
def test_blocks_merge_to_the_same_weights(spec: str, bias: str, segments: bool) -> None:
    """Three blocks of keys, the last one padded; gradients of sinks and of the bias's table too."""
    mask = Causal() & SameSegment()
    where = Context(here(segments), here(segments), BIASES[bias], aligned=True)
    want = gradients(Reference(), mask, where, CHOICES[spec])
    got = gradients(Blockwise(3), mask, where, CHOICES[spec])
    # Both are float32 with other orders of summation over at most 8 terms.
    assert_leaves_close(got, want)


def test_blocks_have_gradients_where_a_row_sees_nothing() -> None:
    """Padding that sees no slot takes the mean of all, as the reference does."""
    where = Context(
        Coordinates.of(L, segment=jnp.zeros((B, L), int)),
        Coordinates.of(L, segment=jnp.ones((B, L), int)),
    )
    want = gradients(Reference(), SameSegment(), where, Normalised())
    got = gradients(Blockwise(3), SameSegment(), where, Normalised())
    assert_leaves_close(got, want)


def bytes_of(kernel: Kernel, length: int) -> int:
    """What output and gradients need beside their inputs and themselves."""
    x = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)
    at = Coordinates.of(length)
    run = lambda q, k, v: kernel(q, k, v, Causal(), Context(at, at)).sum()  # noqa: E731
    compiled = jax.jit(jax.grad(run, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_blocks_grows_with_the_length() -> None:
    """Four times the tokens take about four times the memory, where the reference takes 16."""
    assert bytes_of(Blockwise(32), 2048) < 5 * bytes_of(Blockwise(32), 512)
    assert bytes_of(Blockwise(), 8192) < bytes_of(Reference(), 8192) / 4


@pytest.mark.parametrize(
    ('kernel', 'spec', 'reason'),
    [
        ('fused', 'softmax(cap=30)', r'needs softmax weights, but .*Softmax\(cap=30.0\)'),
        ('fused', 'off_by_one', 'needs softmax weights, but .*OffByOne'),
        ('fused', 'sinks', 'needs softmax weights, but .*Sinks'),
        ('fused', 'sigmoid', 'needs softmax weights, but .*Sigmoid'),
        ('blockwise', 'sigmoid', 'divided by their sum, but .*Sigmoid'),
        ('cudnn', 'softmax(cap=30)', r'needs softmax weights, but .*Softmax\(cap=30.0\)'),
        ('cudnn', 'sinks', 'needs softmax weights, but .*Sinks'),
    ],
)
def test_a_kernel_that_cannot_give_the_weights_is_refused(
    kernel: str, spec: str, reason: str
) -> None:
    part = make(WEIGHTS, spec, 'weights', num_heads=H, max_length=16)
    request = Request(Causal(), False, 0.0, 'gpu', 'bfloat16', part)
    with pytest.raises(UserError, match=reason):
        choose(kernel, request)
    assert choose('auto', request)[0] == 'reference'


@pytest.mark.parametrize('kernel', [Fused(), Blockwise()], ids=['fused', 'blockwise'])
def test_no_kernel_gives_other_weights_silently(kernel: object) -> None:
    q, k, v, _ = arrays()
    with pytest.raises(UserError, match='weights'):
        kernel(q, k, v, Causal(), Context(here(), here()), weights=CHOICES['sigmoid'])


def test_every_kernel_is_named_here() -> None:
    """A new kernel needs a test of the weights that it takes."""
    assert set(KERNELS) == {'reference', 'fused', 'cudnn', 'blockwise', 'splash', 'ring'}
