"""Weights in few bits: their values by definition, both ways by numpy, and bounds of the error."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models.quantised import (
    BITS,
    NF4,
    as_wanted,
    dequantise,
    dequantised,
    float_shapes,
    quantise,
    to_read,
)
from bigmodel.sharding import make_sharding
from bigmodel.training.state import abstract_params
from tests.small import assert_trees_close, quick_jit, random_params, small_model

BLOCK, LEAD = 8, 1
MESHES = {'fsdp': 'fsdp=4', 'fsdp_tensor': 'fsdp=2,tensor=2'}
SHAPE = (2, 6, 4, 8)  # layers, and a row of 4·8 numbers
WEIGHT = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)


def test_nf4_is_quantiles_of_a_normal() -> None:
    """§3 and appendix E: of each half evenly spaced probabilities, from 1/2 to the mean of 1 - 1/30
    and 1 - 1/32; 8 steps above 0 and 7 below; divided by the largest.
    """
    last = 1 - (1 / 30 + 1 / 32) / 2
    quantile = statistics.NormalDist().inv_cdf
    above, below = (
        np.array([quantile(p) for p in np.linspace(0.5, last, steps + 1)]) for steps in (8, 7)
    )
    want = np.concatenate([-below[:0:-1], above]) / above[-1]
    np.testing.assert_allclose(NF4, want, atol=1e-6)


def in_blocks(weight: np.ndarray) -> np.ndarray:
    return np.asarray(weight).reshape(-1, BLOCK)


def test_codes_of_4_bits_are_the_nearest_values_two_a_byte() -> None:
    node = quantise(WEIGHT, BLOCK, 4, LEAD)
    scales = np.abs(in_blocks(WEIGHT)).max(1, keepdims=True)
    want = np.abs((in_blocks(WEIGHT) / scales)[..., None] - NF4).argmin(-1)
    assert node['codes'].shape == (2, 6, 4, 4) and node['codes'].dtype == jnp.uint8
    assert node['scales'].shape == (2, 6, 4)
    np.testing.assert_array_equal(np.ravel(node['scales']), scales[:, 0])
    first, second = want[:, ::2], want[:, 1::2]
    np.testing.assert_array_equal(np.ravel(node['codes']), np.ravel(16 * first + second))
    np.testing.assert_allclose(in_blocks(dequantise(node)), NF4[want] * scales, rtol=1e-6)


def test_codes_of_8_bits_are_rounded_shares_of_the_largest() -> None:
    node = quantise(WEIGHT, BLOCK, 8, LEAD)
    scales = np.abs(in_blocks(WEIGHT)).max(1, keepdims=True)
    want = np.rint(127 * (in_blocks(WEIGHT) / scales))
    assert node['codes'].shape == SHAPE and node['codes'].dtype == jnp.int8
    np.testing.assert_array_equal(in_blocks(node['codes']), want)
    np.testing.assert_allclose(in_blocks(dequantise(node)), want / 127 * scales, rtol=1e-6)


@pytest.mark.parametrize(('bits', 'step'), [(4, np.diff(NF4).max()), (8, 1 / 127)])
def test_errors_are_half_a_step_at_most_and_end_after_one_round(bits: int, step: float) -> None:
    node = quantise(WEIGHT, BLOCK, bits, LEAD)
    error = np.abs(in_blocks(dequantise(node)) - in_blocks(WEIGHT))
    largest = np.abs(in_blocks(WEIGHT)).max(1, keepdims=True)
    assert (error <= largest * step / 2 * (1 + 1e-5)).all() and error.max() > 0
    again = quantise(dequantise(node), BLOCK, bits, LEAD)
    np.testing.assert_array_equal(again['codes'], node['codes'])
    np.testing.assert_allclose(again['scales'], node['scales'], rtol=1e-6)


@pytest.mark.parametrize('bits', BITS)
def test_zeros_stay_and_layers_do_not_share_a_block(bits: int) -> None:
    stacked = WEIGHT.at[0].set(0)
    node = quantise(stacked, BLOCK, bits, LEAD)
    assert not dequantise(node)[0].any()
    alone = quantise(stacked[1], BLOCK, bits)
    for name, x in alone.items():
        np.testing.assert_array_equal(node[name][1], x)


@pytest.mark.parametrize('bits', BITS)
def test_trees_are_read_from_floats_and_from_codes(bits: int) -> None:
    node = quantise(WEIGHT, BLOCK, bits, LEAD)
    stored = {'a': {'weight': node}, 'b': {'scale': jnp.ones(3)}}
    floats = params_lib.flatten(dequantised(stored))
    wanted = params_lib.flatten(jax.eval_shape(lambda: stored))
    shapes = {path: (x.shape, x.dtype) for path, x in float_shapes(wanted).items()}
    assert shapes == {path: (x.shape, x.dtype) for path, x in floats.items()}
    assert to_read(wanted, wanted) == wanted
    assert to_read(wanted, floats).keys() == floats.keys()
    read = {'a/weight': WEIGHT, 'b/scale': stored['b']['scale']}
    for there in (read, params_lib.flatten(stored)):
        made = as_wanted(there, wanted)
        assert made.keys() == wanted.keys()
        for path, x in params_lib.flatten(stored).items():
            np.testing.assert_array_equal(made[path], x)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match='block=64 does not divide the 32 numbers of a row of a/b'):
        quantise(WEIGHT, 64, 4, LEAD, 'a/b')
    with pytest.raises(UserError, match='the last dim of a weight has 3; set bits=8'):
        quantise(jnp.ones((4, 3)), 1, 4)


@pytest.mark.parametrize('rules', MESHES)
def test_codes_are_split_like_their_weight_and_scales_like_its_rows(rules: str) -> None:
    """Also when they are made of floats that a checkpoint has."""
    sharding = make_sharding(MESHES[rules], rules, jax.devices()[:4])
    model = small_model(adapter=f'qlora(block={BLOCK})')
    boxed = abstract_params(model)
    params = model.adapter.stored(dequantised(random_params(model)))
    places = sharding.of_params(boxed)
    own = params_lib.flatten(places)
    mixer = 'backbone/layers/block_0/mixer'
    for path in (f'{mixer}/q/weight', f'{mixer}/out/weight'):
        plain = params_lib.flatten(sharding.of_params(abstract_params(small_model())))[path]
        assert own[f'{path}/codes'].spec == plain.spec
        assert own[f'{path}/scales'].spec[:2] == plain.spec[:2]
    wanted = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params, places
    )
    wanted = params_lib.flatten(wanted)
    floats = params_lib.flatten(dequantised(params))
    read = {p: jax.device_put(floats[p], x.sharding) for p, x in to_read(wanted, floats).items()}
    made = as_wanted(read, wanted)
    assert all(x.sharding.is_equivalent_to(own[path], x.ndim) for path, x in made.items())
    merged = quick_jit(model.adapter.merge)(params_lib.nest(made))
    assert_trees_close(merged, model.adapter.merge(params), rtol=1e-5, atol=1e-5)
