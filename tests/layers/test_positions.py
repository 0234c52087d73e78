"""Position encodings against the papers' formulas and Hugging Face; shift invariance."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.layers.biases import alibi_slopes, t5_bucket
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.masks import Causal
from bigmodel.layers.position import Position
from bigmodel.layers.positions import POSITIONS
from bigmodel.specs import make
from tests.golden.values import golden, golden_file

# Float32 sines of angles up to 2000: the angle itself is rounded to 1e-4 (both sides do the same
# float32 product, but may differ in the last bit of the frequency).
ANGLE = {'rtol': 0, 'atol': 5e-4}
HEADS, HEAD_DIM, LENGTH = 4, 8, 9
HOOKS = ('embed', 'rotate', 'bias', 'contextual_bias')


def position(spec: str) -> Position:
    return make(POSITIONS, spec, 'position', max_length=64)


def rotated(spec: str, x: jax.Array, pos: jax.Array) -> jax.Array:
    """`x` as queries at positions `pos`."""
    here = Coordinates.of(pos.shape[1], jnp.asarray(pos, jnp.int32))
    return position(spec).rotate(x, x, Context(here, here))[0]


def init(module: Position, method: str, *args: Any) -> Any:
    """A module's parameters; a layer's own `init` is the initialisation slot."""
    return nn.unbox(nn.init(lambda m: getattr(m, method)(*args), module)(jax.random.key(0)))


def scores(spec: str, shift: int) -> np.ndarray:
    """Query–key logits with rotation and bias, all positions and slots moved by `shift`."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((2, LENGTH, HEADS, HEAD_DIM))) for _ in range(2))
    module = position(spec)
    here = Coordinates.of(LENGTH, start=shift)

    def run(module: Position) -> jax.Array:
        context = Context(here, here)
        q_, k_ = module.rotate(q, k, context)
        logits = jnp.einsum('BLHK,BSHK->BHLS', q_, k_)
        bias = module.bias(HEADS) or module.contextual_bias(q_, k_, Causal(), context)
        return logits if bias is None else logits + bias(here, here)

    # Parameters, if any: the same key draws the same ones for every shift.
    variables = nn.init(run, module)(jax.random.key(0))
    return np.asarray(jax.jit(nn.apply(run, module))(nn.unbox(variables)))


# Added to the embeddings; or relative under a condition, see below.
ABSOLUTE = ('sinusoidal', 'learned', 'sinusoidal_2d', 'learned_2d', 'rope_2d', 'fire')
# Each encoding whose scores know differences of positions alone, and arguments worth a test.
RELATIVE = [
    *(name for name in POSITIONS if name not in ABSOLUTE),
    'fire(threshold=4000)',  # below its threshold
    'rope_2d(columns=4)',  # a shift by whole rows
    'rope(fraction=0.5)',
    'rope(interleaved=True)',
    'rope(scaling="yarn", factor=4, original_length=32)',
]


@pytest.mark.parametrize('name', RELATIVE)
def test_scores_do_not_change_when_all_positions_shift(name: str) -> None:
    # float32 angles at positions near 1000 are good to 6e-5; scores are sums of 8 products.
    np.testing.assert_allclose(scores(name, 0), scores(name, 1000), rtol=0, atol=2e-3)


@pytest.mark.parametrize('name', [spec for spec in RELATIVE if spec != 'none'])
def test_relative_encodings_do_change_scores(name: str) -> None:
    assert np.abs(scores(name, 0) - scores('none', 0)).max() > 0.05


@pytest.mark.parametrize('name', POSITIONS)
def test_each_encoding_uses_at_least_one_hook(name: str) -> None:
    hooks = [h for h in HOOKS if h in vars(POSITIONS[name])]
    assert len(hooks) == (len(HOOKS) if name == 'none' else 1)


@pytest.mark.parametrize('width', [6, 7])
def test_sinusoidal_is_the_formula(width: int) -> None:
    pos = jnp.array([[0, 1, 5, 100], [3, 2, 1, 2000]])
    table = np.zeros((2, 4, width))
    for i in range(width):
        angle = pos / 10000.0 ** (2 * (i // 2) / width)
        table[:, :, i] = np.cos(angle) if i % 2 else np.sin(angle)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, width)))
    np.testing.assert_allclose(position('sinusoidal').embed(x, pos) - x, table, **ANGLE)


def test_sinusoidal_base_is_an_argument() -> None:
    zeros = jnp.zeros((1, 1, 4))
    got = position('sinusoidal(base=16.0)').embed(zeros, jnp.array([[3]]))[0, 0]
    want = [np.sin(3), np.cos(3), np.sin(3 / 4), np.cos(3 / 4)]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_learned_adds_rows_of_its_table() -> None:
    module = position('learned')
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 8)))
    pos = jnp.array([[0, 1, 2], [63, 0, 7]])
    variables = init(module, 'embed', x, pos)
    (table,) = jax.tree.leaves(variables)
    assert table.shape == (64, 8)
    got = module.apply(variables, x, pos, method='embed')
    np.testing.assert_allclose(got, x + np.asarray(table)[pos], rtol=1e-6)


@pytest.mark.parametrize('theta', ['1e4', '5e5'])
def test_rope_is_llamas(theta: str) -> None:
    values = golden('rope')
    got = rotated(f'rope(theta={theta})', values['x'], values['pos'])
    np.testing.assert_allclose(got, values[f'theta_{theta}'], **ANGLE)


CASES = json.loads(str(golden_file('rope')['specs']))


@pytest.mark.parametrize('i', range(len(CASES)), ids=CASES)
def test_scaled_rope_is_hugging_faces(i: int) -> None:
    values, module = golden_file('rope'), position(CASES[i])
    x, length = jnp.asarray(values['x']), int(values['length'])
    frequency, factor = module.frequencies(x.shape[-1], length)
    # Hugging Face computes in float32.
    np.testing.assert_allclose(frequency, values[f'{i}/frequency'], rtol=1e-5)
    np.testing.assert_allclose(factor, values[f'{i}/factor'], rtol=1e-6)
    queries = Coordinates.of(5, jnp.asarray(values['pos'], jnp.int32))
    got = module.rotate(x, x, Context(queries, Coordinates.of(length)))
    for rotated in got:
        np.testing.assert_allclose(rotated, values[f'{i}/rotated'], **ANGLE)


@pytest.mark.parametrize(
    ('spec', 'key'), [('rope(fraction=0.25)', 'partial'), ('rope(interleaved=True)', 'interleaved')]
)
def test_partial_and_interleaved_rope_are_gpt_neoxs_and_gptjs(spec: str, key: str) -> None:
    values = golden_file('rope')
    got = rotated(spec, jnp.asarray(values['x']), jnp.asarray(values['pos']))
    np.testing.assert_allclose(got, values[key], **ANGLE)


def test_dynamic_ntk_is_plain_up_to_the_original_length() -> None:
    module = position('rope(scaling="dynamic_ntk", factor=2)')  # the model's 64
    plain = position('rope').frequencies(8, 64)[0]
    np.testing.assert_array_equal(module.frequencies(8, 64)[0], plain)
    assert np.all(module.frequencies(8, 65)[0][1:] < plain[1:])


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('rope(factor=2)', "factor=2.0 needs scaling='linear' or .*, not 'none'"),
        ('rope(scaling="linear", factor=2, beta_slow=2)', "beta_slow=2.0 needs scaling='yarn'"),
        ('rope(scaling="linear", factor=0.5)', 'must be at least 1'),
        ('rope(scaling="yarn", beta_slow=40)', 'beta_slow=40.0 must be below beta_fast'),
        ('rope(scaling="yanr")', 'expected .*yarn'),
        ('rope(fraction=0)', r'must be in \(0, 1\]'),
    ],
)
def test_arguments_of_rope_that_cannot_be_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        position(spec)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('rope', 'head_dim=5 is odd'),
        ('rope(fraction=0.6)', 'fraction=0.6 of head_dim=3 is odd'),
        ('rope(fraction=0.1)', 'fraction=0.1 of head_dim=0 is odd or 0'),
        ('rope(fraction=0.5, scaling="ntk", factor=2)', "scaling='ntk', but .*=2"),
    ],
)
def test_heads_that_rope_cannot_rotate_are_refused(spec: str, message: str) -> None:
    assert re.search(message, position(spec).refusal(5))


def test_rope_keeps_norms_and_leaves_position_zero_alone() -> None:
    x = golden('rope')['x']
    pos = jnp.array([[0, 1, 2, 3, 400]])
    got = rotated('rope', x, pos)
    np.testing.assert_array_equal(got[:, 0], x[:, 0])
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_rope_turns_in_float32_for_bfloat16_inputs() -> None:
    x = jnp.asarray(golden('rope')['x'], jnp.bfloat16)
    pos = jnp.array([[0, 1, 2, 1000, 1001]])
    got = rotated('rope', x, pos)
    assert got.dtype == jnp.bfloat16
    exact = rotated('rope', x.astype(jnp.float32), pos)
    # One rounding to bfloat16 (8 bits) of values up to 4.
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_alibi_slopes_are_the_papers() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    np.testing.assert_allclose(alibi_slopes(16), [2 ** (-i / 2) for i in range(1, 17)])


@pytest.mark.parametrize('name', sorted(golden('alibi')))
def test_alibi_slopes_are_blooms(name: str) -> None:
    want = golden('alibi')[name]
    np.testing.assert_allclose(alibi_slopes(len(want)), want, rtol=1e-6)


def test_alibi_bias_is_minus_slope_times_distance() -> None:
    queries, keys = Coordinates.of(3, start=4), Coordinates.of(7)
    bias = position('alibi').bias(8)(queries, keys)
    want = [
        [[-(2.0 ** -(h + 1)) * abs(4 + i - j) for j in range(7)] for i in range(3)]
        for h in range(8)
    ]
    np.testing.assert_allclose(bias, np.array(want)[None], rtol=1e-6)


@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize(('buckets', 'longest'), [(32, 128), (16, 20)])
def test_t5_buckets_are_t5s(buckets: int, longest: int, bidirectional: bool) -> None:
    values = golden('t5')
    got = t5_bucket(jnp.asarray(values['distance'])[None], buckets, longest, bidirectional)[0]
    np.testing.assert_array_equal(got, values[f'bucket_{buckets}_{longest}_{bidirectional}'])


def test_t5_bias_looks_up_one_scalar_a_head() -> None:
    module = position('t5(num_buckets=8, max_distance=16)')
    variables = init(module, 'bias', HEADS)
    (table,) = jax.tree.leaves(variables)
    here = Coordinates.of(20)
    bias = module.apply(variables, HEADS, method=lambda m, h: m.bias(h)(here, here))
    bucket = np.asarray(t5_bucket(here.distance(here), 8, 16, False))
    np.testing.assert_array_equal(bias[0], np.asarray(table)[bucket].transpose(2, 0, 1))


def bias_of(spec: str, queries: Coordinates, keys: Coordinates) -> tuple[np.ndarray, dict]:
    """An encoding's bias with random parameters, and those."""
    module, rng = position(spec), np.random.default_rng(1)
    drawn = jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape)), init(module, 'bias', HEADS)
    )
    bias = module.apply(drawn, HEADS, method=lambda m, h: m.bias(h)(queries, keys))
    return np.asarray(bias), drawn['params']


def test_kerple_is_the_formula() -> None:
    bias, raw = bias_of('kerple', Coordinates.of(3, start=4), Coordinates.of(7))
    a, b = np.log1p(np.exp(raw['a'])), np.log1p(np.exp(raw['b']))
    for h, i, j in np.ndindex(HEADS, 3, 7):
        want = -a[h] * np.log(1 + b[h] * abs(4 + i - j))
        np.testing.assert_allclose(bias[0, h, i, j], want, rtol=1e-5)


def test_fire_is_the_formula() -> None:
    """Row 1 is a second document: its queries' positions begin anew."""
    pos = np.array([[4, 5, 600], [0, 1, 2]])
    queries = Coordinates.of(3, jnp.asarray(pos, jnp.int32), start=4)
    bias, raw = bias_of('fire(hidden=5, threshold=3)', queries, Coordinates.of(7))
    assert bias.shape == (2, HEADS, 3, 7)
    c, t = abs(raw['c'][0]), abs(3 * raw['t'][0])
    for row, i, j in np.ndindex(2, 3, 7):
        x = np.log(c * abs(4 + i - j) + 1) / np.log(c * max(t, pos[row, i]) + 1)
        want = np.maximum(raw['in_slope'] * x + raw['in_bias'], 0) @ raw['out']['table']
        np.testing.assert_allclose(bias[row, :, i, j], want, rtol=1e-3, atol=1e-5)


def test_xpos_scores_are_ropes_that_fade_with_distance() -> None:
    """Σ_i ζ_i^(distance/base)·Re(q_i·conj(k_i)·e^(i·distance·θ_i)) of complex pairs."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 6, 1, 8)).astype(np.float32)
    here = Coordinates.of(6)
    module = position('xpos(scale_base=8)')
    turned = module.rotate(jnp.asarray(q), jnp.asarray(k), Context(here, here))
    got = jnp.einsum('BLHK,BSHK->LS', *turned)
    pair = lambda x: x[0, :, 0, :4] + 1j * x[0, :, 0, 4:]  # noqa: E731
    zeta, theta = (np.arange(4) / 4 + 0.4) / 1.4, 1e4 ** (-np.arange(4) / 4)
    for n, m in np.ndindex(6, 6):
        terms = pair(q)[n] * pair(k)[m].conj() * np.exp(1j * (n - m) * theta)
        want = np.sum(zeta ** ((n - m) / 8) * terms.real)
        np.testing.assert_allclose(got[n, m], want, rtol=1e-4, atol=1e-5)


def test_sinusoidal_2d_is_two_tables_side_by_side() -> None:
    zeros, pos = jnp.zeros((1, 12, 8)), jnp.arange(12)[None]
    got = position('sinusoidal_2d(columns=4)').embed(zeros, pos)
    one = lambda p: position('sinusoidal').embed(zeros[..., :4], p)  # noqa: E731
    for p in range(12):
        row, column = one(jnp.full((1, 12), p // 4)), one(jnp.full((1, 12), p % 4))
        np.testing.assert_array_equal(got[0, p], [*row[0, 0], *column[0, 0]])


def test_learned_2d_adds_its_rows_and_columns() -> None:
    module = position('learned_2d(columns=7)')
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 9)))
    pos = jnp.array([[0, 6, 7], [63, 13, 30]])
    variables = init(module, 'embed', x, pos)
    rows, columns = (variables['params'][n]['table'] for n in ('rows', 'columns'))
    assert (rows.shape, columns.shape) == ((10, 4), (7, 5))  # 64 positions need 10 rows
    got = module.apply(variables, x, pos, method='embed')
    for b, i in np.ndindex(2, 3):
        row, column = divmod(int(pos[b, i]), 7)
        want = x[b, i] + jnp.concatenate([rows[row], columns[column]])
        np.testing.assert_allclose(got[b, i], want, rtol=1e-6)


def test_rope_2d_turns_each_half_by_its_own_coordinate() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, HEADS, HEAD_DIM)))
    pos = np.array([[0, 6, 7], [63, 13, 30]])
    got = rotated('rope_2d(columns=7)', x, pos)
    for half, along in ((slice(0, 4), pos // 7), (slice(4, 8), pos % 7)):
        want = rotated('rope(theta=100)', x[..., half], along)
        np.testing.assert_allclose(got[..., half], want, rtol=1e-5, atol=1e-6)
    assert 'head_dim that 4 divides' in position('rope_2d').refusal(6)
