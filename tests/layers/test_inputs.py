"""Patches against loops over pixels; what they make of an image, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.layers.inputs import INPUTS, Patches, Tokens, flat_patches
from bigmodel.tasks.task import KINDS
from tests.small import quick_jit


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def applied(module: Patches, image: np.ndarray) -> tuple:
    """(parameters, vectors, positions) with random parameters."""
    start = nn.init(lambda m, x: m(x), module)
    shapes = nn.unbox(jax.eval_shape(start, jax.random.key(0), image))['params']
    params = jax.tree.map(lambda s: jnp.asarray(drawn(*s.shape)), shapes)
    run = nn.apply(lambda m, x: m(x), module)
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
