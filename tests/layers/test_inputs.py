"""Patches against loops over pixels; what they make of an image, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.layers.inputs import INPUTS, Patches, Tokens, flat_patches, images_of, spread
from bigmodel.tasks.task import KINDS
from tests.small import quick_jit


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def applied(module: Patches, image: np.ndarray, hidden: np.ndarray | None = None) -> tuple:
    """(parameters, vectors, positions) with random parameters."""
    start = nn.init(lambda m, x: m(x), module)
    shapes = nn.unbox(jax.eval_shape(start, jax.random.key(0), image))['params']
    params = jax.tree.map(lambda s: jnp.asarray(drawn(*s.shape)), shapes)
    which = None if hidden is None else jnp.asarray(hidden)
    run = nn.apply(lambda m, x: m(x, None, which), module)
    return params, *quick_jit(lambda p, x: run({'params': p}, x))(params, image)


def test_patches_and_their_pixels_go_row_by_row() -> None:
    image = drawn(2, 4, 6, 3)
    want = [
        [
            [
                image[b, 2 * i + y, 2 * j + x, c]
                for y in range(2)
                for x in range(2)
                for c in range(3)
            ]
            for i in range(2)
            for j in range(3)
        ]
        for b in range(2)
    ]
    np.testing.assert_array_equal(flat_patches(jnp.asarray(image), 2), want)


def test_each_patch_goes_through_one_linear_map() -> None:
    image = drawn(2, 4, 6, 3)
    params, x, positions = applied(Patches(width=5, size=2), image)
    patches = np.asarray(flat_patches(jnp.asarray(image), 2))
    want = patches @ params['patch']['weight'] + params['patch']['bias']
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_bytes_become_minus_one_to_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1)).astype(np.uint8)
    image[0, 0, 0], image[0, 0, 1] = 0, 255
    module = Patches(width=5, size=2, channels=1)
    np.testing.assert_allclose(
        applied(module, image)[1],
        applied(module, (image / 127.5 - 1).astype(np.float32))[1],
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_class_token_comes_first_at_the_position_of_the_first_patch() -> None:
    image = drawn(2, 4, 6, 3)
    params, x, positions = applied(Patches(width=5, size=2, class_token=True), image)
    np.testing.assert_array_equal(x[:, 0], [params['class_token']] * 2)
    assert x.shape == (2, 7, 5) and positions.tolist() == [[0, 0, 1, 2, 3, 4, 5]]
    patches = np.asarray(flat_patches(jnp.asarray(image), 2))
    want = patches @ params['patch']['weight'] + params['patch']['bias']
    np.testing.assert_allclose(x[:, 1:], want, rtol=1e-5, atol=1e-5)


def test_images_of_patches_are_the_images() -> None:
    image = jnp.asarray(drawn(2, 4, 6, 3))
    for size in (1, 2):
        np.testing.assert_array_equal(images_of(flat_patches(image, size), image.shape), image)


def test_a_grid_is_spread_to_rectangles() -> None:
    grid = jnp.array([[[1, 0, 1]], [[0, 1, 1]]], bool)
    want = [[[1, 1, 0, 0, 1, 1]] * 2, [[0, 0, 1, 1, 1, 1]] * 2]
    np.testing.assert_array_equal(spread(grid, 2, 6), np.array(want, bool))


@pytest.mark.parametrize('class_token', [False, True])
def test_a_vector_takes_the_place_of_hidden_patches_and_of_nothing_else(class_token) -> None:
    """Of 4 × 3 patches the squares of 2 × 1 that are hidden; never the class token."""
    image = drawn(2, 8, 6, 3)
    hidden = np.array([[[0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 1]]], bool)
    shape = {'width': 5, 'size': 2, 'class_token': class_token}
    params, x, positions = applied(Patches(**shape, mask_token=True), image, hidden)
    _, plain, plain_positions = applied(Patches(**shape), image)
    which = np.zeros((2, 12 + class_token), bool)
    which[0, class_token + np.array([1, 4])] = True
    which[1, class_token + np.array([0, 3, 7, 8, 10, 11])] = True
    np.testing.assert_array_equal(x[which], np.tile(params['mask_token'], (8, 1)))
    np.testing.assert_array_equal(x[~which], plain[~which])
    np.testing.assert_array_equal(positions, plain_positions)


@pytest.mark.parametrize('class_token', [False, True])
def test_the_vector_of_hidden_patches_is_a_parameter_only_where_it_is_asked_for(class_token):
    image = drawn(1, 4, 4, 3)
    shape = {'width': 5, 'size': 2, 'class_token': class_token}
    without, plain, _ = applied(Patches(**shape), image)
    params, x, _ = applied(Patches(**shape, mask_token=True), image)
    assert set(without) == {'patch', 'class_token'} if class_token else {'patch'}
    assert set(params) - set(without) == {'mask_token'}
    np.testing.assert_array_equal(x, plain)  # nothing is hidden


@pytest.mark.parametrize(
    ('module', 'hidden', 'message'),
    [
        (Patches(width=4, size=4), (2, 2), 'has nothing to put .* set mask_token=True'),
        (Patches(width=4, size=4, mask_token=True), (4, 4), 'does not divide the 2×2 pixels'),
        (Patches(width=4, size=8, mask_token=True), (1, 2), 'divide the 8×4 pixels .* of 8'),
        (Tokens(vocab_size=9, width=4), (1, 1), r'use patches\(mask_token=True\)'),
    ],
)
def test_what_cannot_be_hidden_is_refused(module, hidden, message) -> None:
    image = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    inputs = image if module.key == 'image' else jnp.zeros((1, 5), jnp.int32)
    start = nn.init(lambda m, x: m(x, None, jnp.zeros((1, *hidden), bool)), module)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(start, jax.random.key(0), inputs)


@pytest.mark.parametrize('length', [1, 2, 17])
@pytest.mark.parametrize('class_token', [False, True])
def test_the_example_becomes_as_many_tokens_as_were_asked_for(length, class_token) -> None:
    module = Patches(width=5, size=2, channels=1, class_token=class_token)
    example = module.example(length)
    assert example.dtype == jnp.uint8 and module.layout(example.shape[1:]).length == length
    start = nn.init_with_output(lambda m, x: m(x), module)
    (x, positions), _ = jax.eval_shape(start, jax.random.key(0), example)
    assert x.shape == (1, length, 5) and positions.shape == (1, length)


def test_products_are_in_the_compute_dtype_and_parameters_float32() -> None:
    module = Patches(width=4, size=2, class_token=True, dtype=jnp.bfloat16)
    start = nn.init_with_output(lambda m, x: m(x), module)
    (x, _), variables = jax.eval_shape(start, jax.random.key(0), module.example(5))
    assert x.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_layouts() -> None:
    assert Tokens(vocab_size=3, width=4).layout((9,)) == (9, 0)
    assert Patches(width=4, size=4).layout((8, 12, 3)) == (6, 3)
    assert Patches(width=4, size=4, class_token=True).layout((8, 12, 3)) == (7, 3)
    vit = Patches(width=384, class_token=True)
    assert vit.layout((224, 224, 3)) == (197, 14)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((8, 8, 1), r'patches\(channels=3\), but the images have 1; set channels=1'),
        ((8, 9, 3), r'patches\(size=4\) does not divide images of 8×9 pixels'),
        ((9, 8, 3), 'does not divide images of 9×8 pixels'),
    ],
)
def test_images_that_are_no_whole_patches_are_refused(shape, message) -> None:
    with pytest.raises(UserError, match=message):
        Patches(width=4, size=4).layout(shape)


def test_all_inputs_read_a_field_that_tasks_know() -> None:
    assert {part.key for part in INPUTS.values()} == set(KINDS)
