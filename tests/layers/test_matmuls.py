"""Quantised products: equal to qwix's own, near the full ones, and the same in every program."""

import re
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

qwix = pytest.importorskip('qwix')

from qwix._src.core.dot_general_qt import DotGeneralQtConfig, dot_general_qt  # noqa: E402
from qwix._src.core.stochastic_rounding import get_noise_fn  # noqa: E402

from bigmodel.errors import UserError  # noqa: E402
from bigmodel.layers.matmuls import CALIBRATION, MATMULS, Full, Quantised  # noqa: E402
from bigmodel.models.model import apply  # noqa: E402
from bigmodel.params import flatten  # noqa: E402
from bigmodel.sharding import make_sharding  # noqa: E402
from bigmodel.specs import make  # noqa: E402
from bigmodel.training.fit import check_matmul  # noqa: E402
from tests.small import (  # noqa: E402
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    small_config,
    small_model,
)

SPECS = (
    'int8',
    'int8(gradients="all")',
    'int8(gradients="none", tile=8)',
    'int8(tile=128)',
    'int8(gradients="all", scale="tensor")',
    'int8(gradients="all", stochastic=True)',
    'fp8',
    'fp8(scale="channel", gradients="inputs")',
)


def built(spec: str) -> Full:
    return make(MATMULS, spec, 'model.matmul')


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


ROWS, INTO, OUT = 24, 256, 128
X, W, DY = drawn(ROWS, INTO), drawn(INTO, OUT, seed=1) / 16, drawn(ROWS, OUT, seed=2)


def reference(matmul: Quantised, key: jax.Array | None) -> DotGeneralQtConfig:
    """qwix's config of the same products, whose residuals are quantised anew."""
    of_x, of_w = matmul.gradients != 'none', matmul.gradients == 'all'
    tensor, tile = matmul.scale == 'tensor', matmul.tile or None
    noise = [None, None]
    if key is not None:
        make_noise = partial(get_noise_fn, 'uniform', channelwise_noise_axes=(0, 1))
        noise = [make_noise(key=k) for k in jax.random.split(key)]
    parts = ('lhs', 'rhs', *(f'{d}_{of}' for d in ('dlhs', 'drhs') for of in ('grad', 'residual')))
    return DotGeneralQtConfig(
        lhs_qtype=matmul.forward,
        rhs_qtype=matmul.forward,
        tile_size=tile,
        dlhs_tile_size=tile,
        dlhs_grad_qtype=matmul.backward if of_x else None,
        drhs_grad_qtype=matmul.backward if of_w else None,
        dlhs_residual_qtype=matmul.forward if of_x else None,
        drhs_residual_qtype=matmul.forward if of_w else None,
        dlhs_stochastic_rounding_noise_fn=noise[0],
        drhs_stochastic_rounding_noise_fn=noise[1],
        use_original_residuals=True,
        disable_gradient_clipping=True,
        **{f'{part}_calibration_method': CALIBRATION[matmul.forward] for part in parts},
        **{f'{part}_disable_channelwise_axes': tensor for part in parts},
    )


@pytest.mark.parametrize('spec', SPECS)
def test_values_and_gradients_are_qwixs_own(spec: str) -> None:
    matmul = built(spec)
    key = jax.random.key(0) if 'stochastic' in spec else None
    config = reference(matmul, key)
    ours = jax.vjp(lambda x, w: matmul.contract(x, w, 1, key=key), X, W)
    theirs = jax.vjp(lambda x, w: dot_general_qt(x, w, (((1,), (0,)), ((), ())), config), X, W)
    np.testing.assert_array_equal(ours[0], theirs[0])
    (dx, dw), (their_dx, their_dw) = ours[1](DY), theirs[1](DY)
    np.testing.assert_array_equal(dx, their_dx)
    # qwix has dwᵀ, so that the two scales are multiplied in the other order.
    np.testing.assert_allclose(dw, their_dw, rtol=3e-7)


def error(got: Any, want: Any) -> float:
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


# Of normal numbers, relative: value, gradient of x, gradient of w. Those that are not quantised
# differ by nothing.
LARGEST = {
    'int8': (0.012, 0.012, 0.0),
    'int8(gradients="all")': (0.012, 0.012, 0.012),
    'int8(gradients="none", tile=8)': (0.008, 0.0, 0.0),
    'int8(tile=128)': (0.012, 0.012, 0.0),
    'int8(gradients="all", scale="tensor")': (0.016, 0.016, 0.016),
    'int8(gradients="all", stochastic=True)': (0.012, 0.018, 0.018),
    'fp8': (0.04, 0.065, 0.065),
    'fp8(scale="channel", gradients="inputs")': (0.04, 0.065, 0.0),
}


@pytest.mark.parametrize('spec', SPECS)
def test_the_error_is_that_of_eight_bits(spec: str) -> None:
    matmul = built(spec)
    key = jax.random.key(0) if 'stochastic' in spec else None
    got, back = jax.vjp(lambda x, w: matmul.contract(x, w, 1, key=key), X, W)
    want, full = jax.vjp(lambda x, w: Full().contract(x, w, 1), X, W)
    errors = [error(got, want), *map(error, back(DY), full(DY))]
    for seen, most in zip(errors, LARGEST[spec], strict=True):
        assert most / 2.5 <= seen <= most + 1e-6, errors


def test_random_rounding_has_no_bias() -> None:
    """The mean over 64 keys is nearer to the full gradient than rounding to the nearest."""
    x, w, small = X.astype(jnp.float32), W, DY * jnp.exp(3 * drawn(ROWS, OUT, seed=3))

    def gradient(key: jax.Array | None) -> jax.Array:
        matmul = built(f'int8(gradients="all", stochastic={key is not None})')
        return jax.vjp(lambda x: matmul.contract(x, w, 1, key=key), x)[1](small)[0]

    want = small @ w.T
    drawn_keys = jax.random.split(jax.random.key(0), 64)
    mean = jnp.mean(quick_jit(jax.vmap(gradient))(drawn_keys), 0)
    assert error(mean, want) < 0.5 * error(gradient(drawn_keys[0]), want)
    # What is left is the rounding of the weights.
    assert error(mean, want) < error(gradient(None), want)


TOKENS = jnp.asarray(random_tokens(8, 16))


def trained(mesh: str = '', rules: str = 'dp', **model: Any) -> tuple[Any, Any]:
    """A loss of the small model's outputs, and its gradients."""
    built_model = small_model(16, **model)
    params = random_params(built_model)

    def loss(p: Any) -> jax.Array:
        outputs = apply(built_model, p, TOKENS, dropout_key=jax.random.key(0))
        return jnp.mean(outputs.astype(jnp.float32) ** 2)

    run = quick_jit(jax.value_and_grad(loss))
    if not mesh:
        return run(params)
    with make_sharding(mesh, rules).active():
        return jax.device_get(run(params))


ALL = 'int8(gradients="all", stochastic=True)'


@pytest.fixture(scope='module')
def alone() -> tuple[Any, Any]:
    return trained(matmul=ALL)


@pytest.mark.parametrize(
    'changes',
    [{'unroll': 2}, {'remat': 'full'}, {'mesh': 'fsdp=4,tensor=2', 'rules': 'fsdp_tensor'}],
    ids=['unrolled', 'remat', 'mesh'],
)
def test_every_program_gives_the_same(alone: tuple[Any, Any], changes: dict[str, Any]) -> None:
    """Scanned, unrolled, recomputed, split: the same codes, and the same draws."""
    loss, grads = trained(matmul=ALL, **changes)
    np.testing.assert_allclose(loss, alone[0], rtol=1e-6)
    assert_trees_close(grads, alone[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('ffn', 'place'),
    [('moe(experts=4, top_k=4)', ('', 'dp')), ('switch(experts=4)', ('fsdp=2', 'fsdp'))],
    ids=['moe', 'switch'],
)
def test_experts_are_quantised_too_also_where_devices_share_them(
    ffn: str, place: tuple[str, str]
) -> None:
    """On a mesh scales are of the rows of one device. No token may go to another expert for it."""
    full = trained(ffn=ffn)
    loss, grads = trained(*place, ffn=ffn, matmul='int8(gradients="all")')
    assert 1e-6 < abs(loss / full[0] - 1) < 0.01
    for path, want in flatten(full[1]).items():
        assert error(flatten(grads)[path], want) < 0.03, path


def test_gradients_of_a_model_point_the_same_way(alone: tuple[Any, Any]) -> None:
    full = flatten(trained()[1])
    for spec, least in ((ALL, 0.998), ('fp8', 0.97)):
        grads = alone[1] if spec == ALL else trained(matmul=spec)[1]
        for path, got in flatten(grads).items():
            want = full[path]
            cosine = jnp.vdot(got, want) / jnp.linalg.norm(got) / jnp.linalg.norm(want)
            assert cosine > least, (spec, path)


def test_weights_in_full_are_multiplied_as_ever() -> None:
    """Those of `full`; by default head, inputs and routers."""
    kept = small_model(16, matmul='int8(full=(".*",))')
    plain, tied = small_model(16), small_model(16, matmul='int8(full=(".*/block_0/",))')
    params = random_params(plain)
    want, got, of_head = (apply(m, params, TOKENS) for m in (plain, kept, tied))
    np.testing.assert_array_equal(got, want)
    assert 0.001 < error(of_head, want) < 0.02  # the tied table


def test_sums_that_an_int32_cannot_hold_are_refused() -> None:
    many = jnp.zeros((2**17, 1))
    back = jax.vjp(partial(built('int8(gradients="all")').contract, n=1), many, jnp.ones((1, 1)))[1]
    with pytest.raises(UserError, match=r"131,072 products.*set gradients='inputs'"):
        back(many)


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        ('int9', "'int9'.*Did you mean 'int8'"),
        ('int8(gradients="some")', "'all' or 'inputs' or 'none'"),
        ('int8(full=("(",))', 'not a regular expression'),
        ('int8(tile=8, scale="tensor")', "tile=8 needs scale='channel'"),
        ('int8(gradients="none", stochastic=True)', 'rounds gradients, which are in full'),
        ('fp8(stochastic=True)', "fp8 has no argument 'stochastic'"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as e:
        built(spec)
    assert '\n' not in str(e.value)


def test_regexes_and_tiles_that_do_not_fit_the_model_are_refused() -> None:
    params = random_params(small_model())
    for spec, words in (
        ('int8(full=("blocks/",))', "'blocks/' matches no parameter"),
        ('int8(full=("backbone/", "inputs/"))', 'leaves all weights in full'),
    ):
        with pytest.raises(UserError, match=words):
            check_matmul(small_config(matmul=spec).model, params)
    with pytest.raises(UserError, match=r'tile=5 does not divide the 16 numbers'):
        random_params(small_model(matmul='int8(tile=5)'))
    with pytest.raises(UserError, match=r'stochastic=True has no keys .* experts'):
        random_params(small_model(matmul=ALL, ffn='moe(experts=4)'))
    with pytest.raises(UserError, match=r'stochastic=True has no keys .* the head'):
        random_params(small_model(matmul='int8(full=(), stochastic=True)'))


def test_without_qwix_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'qwix', None)
    built('full')
    with pytest.raises(UserError, match=re.escape('needs qwix: pip install qwix')):
        built('fp8')
