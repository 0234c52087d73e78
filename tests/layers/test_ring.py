"""Ring attention is exact on every ring, balanced, and its memory falls with the devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.layers.biases import AlibiBias, alibi_slopes
from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.kernels import choose
from bigmodel.layers.masks import MASKS, Causal, Mask, SameSegment
from bigmodel.layers.reference import Reference
from bigmodel.layers.ring import Ring
from bigmodel.layers.weights import PLAIN, Normalised
from bigmodel.layers.zigzag import halves
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.specs import make
from tests.collectives import collectives
from tests.small import quick_jit

B, L, H, G, K = 2, 32, 4, 2, 8
MESHES = {
    'context=2': 'context',
    'context=3': 'context',  # with rows of 36
    'context=8': 'context',
    'data=2,context=2,tensor=2': 'context_tensor',
}


def mesh(text: str) -> Sharding:
    sizes = [int(part.split('=')[1]) for part in text.split(',')]
    return make_sharding(text, MESHES[text], jax.devices()[: int(np.prod(sizes))])


def program(kernel: Kernel, mask: Mask, segments: bool, more: bool) -> Callable:
    """(q, k, v, slopes, sink, cotangent) -> output and gradients; `more`: with bias and sink."""

    def run(q, k, v, slopes, sink, cotangent):
        documents = jnp.asarray(np.arange(q.shape[1])[None] // np.array([[5], [11]]), jnp.int32)
        here = Coordinates.of(q.shape[1], segment=documents if segments else None)

        def attend(q, k, v, slopes, sink):
            where = Context(here, here, AlibiBias(slopes) if more else None, True)
            weights = Normalised(sink, 20.0) if more else PLAIN
            return kernel(q, k, v, mask & SameSegment(), where, weights=weights)

        output, vjp = jax.vjp(attend, q, k, v, slopes, sink)
        return output, vjp(cotangent)

    return quick_jit(run)


@functools.cache
def inputs(length: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shapes = [(B, length, n, K) for n in (H, G, G)]
    q, k, v, do = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (*shapes, shapes[0]))
    return q, k, v, jnp.asarray(alibi_slopes(H)), jnp.linspace(-1.0, 1.0, H), do


@pytest.mark.parametrize('more', [False, True], ids=['plain', 'bias_sink_cap'])
@pytest.mark.parametrize('mask', ['causal', 'full', 'window(5)', 'chunked(6)', 'prefix(3)'])
@pytest.mark.parametrize('text', MESHES)
def test_output_and_gradients_are_the_references(text: str, mask: str, more: bool) -> None:
    arrays = inputs(36 if text == 'context=3' else L)
    part = make(MASKS, mask, 'mask')
    want = program(Reference(), part, True, more)(*arrays)
    sharding = mesh(text)
    with sharding.active():
        compiled = program(Ring(3), part, True, more).lower(*arrays).compile()
        got = compiled(*arrays)
    # float32 sums of at most 36 terms in another order; slopes' gradients are sums over all pairs.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=4e-6), got, want)
    moved = {str(c) for c in collectives(compiled.as_text(), sharding.mesh)}
    summed = 'data×context' if 'data' in text else 'context'
    assert moved == {'collective-permute over context'} | (
        {f'all-reduce over {summed}'} if more else set()
    )


@pytest.mark.parametrize('ways', [2, 3, 8])
def test_with_a_causal_mask_every_device_has_as_much_to_do(ways: int) -> None:
    """Pairs of parts in which a query sees a key, at each turn; in order they differ."""

    def pairs(query_device: int, key_device: int, zigzag: bool) -> int:
        queries, keys = (
            [int(h) for h in halves(jnp.int32(d), ways, zigzag)] for d in (query_device, key_device)
        )
        return sum(key <= query for query in queries for key in keys)

    for zigzag in (True, False):
        turns = [{pairs(d, (d - step) % ways, zigzag) for d in range(ways)} for step in range(ways)]
        assert all(len(counts) == 1 for counts in turns) == zigzag


def test_rows_that_do_not_divide_are_refused() -> None:
    with mesh('context=8').active(), pytest.raises(UserError, match='rows of 24 tokens do not'):
        program(Ring(), Causal(), False, False).lower(*inputs(24))


def test_what_the_ring_cannot_serve_is_refused_by_name() -> None:
    request = Request(Causal(), False, 0.1, 'cpu', 'float32')
    with pytest.raises(UserError, match='cannot serve this model: it has no dropout'):
        choose('ring', request)


def bytes_of(kernel: Kernel, sharding: Sharding, length: int) -> int:
    """What a device needs for one head of 64 features, forward and backward, arrays included."""
    place = sharding.named(('batch', 'inner_length', None, None), (1, length, 1, 64), 'q')

    def run(q, k, v, cotangent):
        here = Coordinates.of(length)
        where = Context(here, here, None, True)
        output, vjp = jax.vjp(lambda *qkv: kernel(*qkv, Causal(), where), q, k, v)
        return output, *vjp(cotangent)

    array = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32, sharding=place)
    with sharding.active():
        compiled = jax.jit(run, out_shardings=(place,) * 4).lower(*[array] * 4).compile()
    found = compiled.memory_analysis()
    names = ('temp', 'argument', 'output')
    return sum(getattr(found, f'{name}_size_in_bytes') for name in names)


def test_eight_devices_need_less_than_a_sixth_of_ones_memory_at_32k_tokens() -> None:
    """Against `blockwise`, whose memory grows with the length and not with its square."""
    one = bytes_of(Blockwise(), make_sharding('', 'dp', jax.devices()[:1]), 32768)
    ring = bytes_of(Ring(), make_sharding('context=8', 'context'), 32768)
    print(f'\nring {ring / 1e6:.1f} MB a device, blockwise {one / 1e6:.1f} MB')
    assert ring < one / 6
