"""Policies of recomputation keep what they say, where they say (equal results: test_model)."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bigmodel.errors import UserError
from bigmodel.layers.names import NAMES
from bigmodel.models.model import apply
from bigmodel.models.remat import is_host, policy_of
from tests.small import random_params, random_tokens, small_model, unboxed_shapes

DEPTH, ROWS, LENGTH, HIDDEN = 3, 2, 12, 40
STREAM = (ROWS, LENGTH, 16)
QUERIES, KEYS = (ROWS, LENGTH, 4, 4), (ROWS, LENGTH, 2, 4)
HEADS = (ROWS, 2, 2 * LENGTH, 4)  # rows of a key head
LOGITS = (ROWS, 2, 2 * LENGTH, LENGTH)
UNITS = (ROWS, LENGTH, HIDDEN)
SHAPES = {
    'block_input': [STREAM],
    'queries': [QUERIES],
    'keys': [KEYS],
    'values': [KEYS],
    'attention_out': [HEADS],
    'mixer_out': [STREAM],
    'ffn_in': [UNITS],
    'ffn_hidden': [UNITS],
    'ffn_out': [],  # the next layer's input, which is kept anyway
}
PRODUCTS = [QUERIES, KEYS, KEYS, STREAM, UNITS]


def kept(remat: str, **model: Any) -> collections.Counter:
    """(shape, whether in the host's memory) of all that layers keep, stacked over them."""
    small = small_model(LENGTH, depth=DEPTH, ffn=f'mlp(hidden={HIDDEN})', remat=remat, **model)
    params, tokens = unboxed_shapes(small), jnp.asarray(random_tokens(ROWS, LENGTH))

    def residuals(params: Any) -> list:
        return jax.tree.leaves(jax.vjp(lambda p: apply(small, p, tokens).sum(), params)[1])

    given = {leaf.shape for leaf in jax.tree.leaves(params)}
    found = (x for x in jax.make_jaxpr(residuals)(params).out_avals if x.shape not in given)
    return collections.Counter((x.shape[1:], is_host(x)) for x in found if x.shape[:1] == (DEPTH,))


def on_device(*shapes: tuple[int, ...]) -> collections.Counter:
    return collections.Counter((shape, False) for shape in shapes)


@pytest.mark.parametrize('name', NAMES)
def test_save_keeps_what_bears_the_name(name):
    also = [] if name == 'block_input' else SHAPES[name]
    assert kept(f'save(names=("{name}",))') == on_device(STREAM, *also)


def test_products_are_kept_by_the_policies_of_products():
    assert kept('full') == on_device(STREAM)
    assert kept('dots_no_batch') == on_device(STREAM, *PRODUCTS)
    assert kept('dots') == on_device(STREAM, *PRODUCTS, LOGITS, HEADS)


def test_a_kernel_of_blocks_keeps_its_sums_beside_its_output():
    sums = (*HEADS[:-1], 1)
    found = kept('save(names=("attention_out",))', kernel='blockwise')
    assert found == on_device(STREAM, HEADS, sums, sums)


def test_what_is_offloaded_is_on_the_host_alone():
    assert kept('offload') == {(STREAM, True): 1}
    both = kept('offload(names=("block_input", "attention_out"), saved=("ffn_in",))')
    assert both == {(STREAM, True): 1, (HEADS, True): 1, (UNITS, False): 1}


def test_every_mixer_and_ffn_bears_names():
    mixed = kept(
        'save(names=("ffn_in", "queries"))', mixer='mla(rank=8, rope_dim=2)', num_kv_heads=4
    )
    assert mixed == on_device(STREAM, (ROWS, LENGTH, 4, 6), UNITS)


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        ('save(names=("querys",))', "unknown name in model.remat=save(...) 'querys'. Did you mean"),
        ('offload(names=("ffn",))', 'block_input, ffn_hidden, ffn_in'),
        ('offload(names=("keys",), saved=("keys",))', "offload has 'keys' in names and in saved"),
        ('save(names=())', "write 'full'"),
        ('save(names=3)', 'expected tuple'),
        ('save(names=(["keys"],))', 'unknown name'),
        ('offload(names=(), saved=("keys",))', "write 'full'"),
        ('ful', "Did you mean 'full'"),
    ],
)
def test_bad_policies_are_refused(spec, says):
    with pytest.raises(UserError) as e:
        policy_of(spec)
    assert says in str(e.value)


def test_offloaded_layers_give_the_same_gradient_when_split_over_devices():
    model = small_model(LENGTH, remat='offload(names=("attention_out",))')
    plain = small_model(LENGTH, remat='none')
    params = random_params(plain)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P('data'))
    tokens = jax.device_put(random_tokens(8, LENGTH), rows)

    def gradient(which: Any) -> Any:
        return jax.jit(jax.grad(lambda p: apply(which, p, tokens).sum()))(params)

    for got, want in zip(*(jax.tree.leaves(gradient(m)) for m in (model, plain)), strict=True):
        assert jnp.allclose(got, want, rtol=1e-4, atol=1e-5)
