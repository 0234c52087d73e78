"""Masked images: drawn evenly from (seed, place), the loss by hand, nothing hidden is seen."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import NoTokenizer
from bigmodel.errors import UserError
from bigmodel.models.model import Model, apply
from bigmodel.tasks.build import build_task
from bigmodel.tasks.masked_images import MaskedImages
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from tests.small import quick_jit, random_params, small_model

CARD = 'experiments/pretrain/masked_images.py'
NO_TEXT = NoTokenizer()


def images(rows: int = 2, height: int = 4, width: int = 6, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (rows, height, width, channels)).astype(np.uint8)


def prepared(task: MaskedImages, rows: int = 2, first: int = 0, **shape: int) -> dict:
    draws = Draws(np.arange(first, first + rows, dtype=np.uint64))
    return task.prepare({'image': images(rows, **shape)}, draws, NO_TEXT)


@pytest.mark.parametrize(
    ('size', 'rate', 'grid', 'count'),
    [
        (2, 0.6, (2, 3), 4),  # 3.6 of 6
        (1, 0.6, (4, 6), 14),
        (2, 0.01, (2, 3), 1),
        (2, 0.99, (2, 3), 5),
    ],
)
def test_the_share_of_squares_that_is_hidden(size, rate, grid, count) -> None:
    hidden = prepared(MaskedImages(size, rate), rows=50)['hidden']
    assert hidden.shape == (50, *grid) and hidden.dtype == bool
    assert set(hidden.sum((1, 2))) == {count}


def test_squares_are_equally_likely_and_depend_on_their_row_alone() -> None:
    task = MaskedImages(1, 0.5)
    hidden = prepared(task, 20_000, height=2, width=3)['hidden']
    # 20,000 draws of a half: a standard deviation of 71.
    assert np.abs(hidden.sum(0) - 10_000).max() < 5 * 71
    assert len(np.unique(hidden.reshape(-1, 6), axis=0)) == math.comb(6, 3)
    some = prepared(task, 9, first=7, height=2, width=3)['hidden']
    np.testing.assert_array_equal(some, hidden[7:16])


def test_the_loss_is_of_the_hidden_pixels_of_valid_rows() -> None:
    batch = prepared(MaskedImages(2, 0.6), 3)
    outputs = np.random.default_rng(1).standard_normal((3, 6, 12))  # patches of 2 × 2 × 3
    valid, seen, errors = np.array([1.0, 0.0, 1.0]), {}, []
    for b in (0, 2):
        for i, j in zip(*np.nonzero(batch['hidden'][b]), strict=True):
            square = batch['image'][b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] / 127.5 - 1
            errors.append(outputs[b, 3 * i + j] - square.ravel())

    def model(image, positions, segments, key, hidden):
        seen.update(image=image, hidden=hidden)
        return jnp.asarray(outputs)

    given = {k: jnp.asarray(v) for k, v in batch.items()} | {'valid': jnp.asarray(valid)}
    metrics = MaskedImages(2)(model, given, None)
    assert float(metrics['loss'].weight) == np.size(errors) == 2 * 4 * 12
    assert metrics['loss'].value() == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert metrics['mse'].value() == pytest.approx(np.square(errors).mean(), rel=1e-5)
    for field in ('image', 'hidden'):
        np.testing.assert_array_equal(seen[field], batch[field])


def vit() -> Model:
    inputs = 'patches(size=2, class_token=True, mask_token=True)'
    return small_model(7, mask='full', inputs=inputs, head='pixels', position='learned')


def test_predictions_do_not_depend_on_hidden_pixels() -> None:
    model, batch = vit(), prepared(MaskedImages(2, 0.6))
    params, hidden = random_params(model), jnp.asarray(batch['hidden'])
    run = quick_jit(lambda x: apply(model, params, x, hidden=hidden))
    base = run(batch['image'])
    for y, x in np.ndindex(4, 6):
        changed = batch['image'].copy()
        changed[0, y, x] = 255 - changed[0, y, x]
        moved = np.abs(run(changed) - base).max((1, 2))
        assert (moved[0] > 1e-4) == (not batch['hidden'][0, y // 2, x // 2])
        assert moved[0] == 0 or moved[0] > 1e-4
        assert moved[1] == 0


def test_where_a_square_is_reaches_its_prediction() -> None:
    """Hidden patches differ by their positions alone."""
    model = vit()
    hidden = jnp.array([[[1, 1, 0], [0, 0, 0]]], bool)
    out = quick_jit(lambda p, x: apply(model, p, x, hidden=hidden))(random_params(model), images(1))
    assert np.abs(out[0, 0] - out[0, 1]).max() > 1e-2


def card(**changes: str) -> config_lib.ConfigDict:
    c = config_lib.load(CARD)
    c.model.update(depth=1, width=16, num_heads=2)
    c.data.batch_size = 8
    c.sharding.mesh = 'data=1'
    for key, value in changes.items():
        config_lib.override(c, key.replace('__', '.'), value)
    return resolve(c)


def test_the_same_seed_and_step_hide_the_same_and_evaluations_always_do() -> None:
    one, again, other = (build(card(seed=seed)) for seed in ('0', '0', '1'))
    first, second, third = (s.data.batches(3)['hidden'] for s in (one, again, other))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any() and (first != one.data.batches(4)['hidden']).any()
    splits = [s.open_split('validation').batches for s in (one, other)]
    np.testing.assert_array_equal(*(b(1)['hidden'] for b in splits))
    assert (splits[0](1)['hidden'] != splits[0](2)['hidden']).any()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'task': 'masked_images(size=3)'}, r'masked_images\(size=3\) does not divide .* 8×8'),
        ({'task': 'masked_images'}, r'masked_images\(size=32\) does not divide images of 8×8'),
        ({'task': 'masked_images(size=8)'}, r'\(size=8\) would hide the whole image'),
        ({'task': 'masked_images(size=1)'}, r'patches\(size=2\) does not divide the 1×1 pixels'),
        (
            {'model__inputs': 'patches(size=2, channels=1, class_token=True)'},
            r'patches\(size=2\) has nothing to put where the task hides .* set mask_token=True',
        ),
        ({'model__head': 'classifier'}, "needs model.head='pixels', not 'classifier'"),
        ({'task': 'classification'}, "needs model.head='classifier', not 'pixels'"),
        ({'model__mask': 'causal'}, "predicts from both sides, of which model.mask='causal'"),
        ({'task': 'masked_lm'}, "task='masked_lm' reads tokens, but data.source='digits'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(card(**changes))


def test_text_is_not_painted(tmp_path) -> None:
    (tmp_path / 'text.txt').write_text('the quick brown fox. ' * 100)
    text = {'data__source': 'text', 'data__path': str(tmp_path / 'text.txt')}
    cache = {'data__cache_dir': str(tmp_path / 'cache')}
    with pytest.raises(UserError, match=r"task='masked_images\(size=2\)' reads images, but"):
        build(card(**text, **cache))


@pytest.mark.parametrize('spec', ['rate=0.0', 'rate=1.0', 'size=0'])
def test_arguments_that_cannot_be_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=rf'masked_images\({spec.partition("=")[0]}=...\)'):
        build_task(f'masked_images({spec})')


def test_the_mask_vector_has_a_gradient() -> None:
    model = vit()
    hidden = jnp.array([[[1, 1, 0], [0, 0, 0]]], bool)

    def loss(params):
        return jnp.mean(apply(model, params, jnp.asarray(images(1)), hidden=hidden) ** 2)

    grads = quick_jit(jax.grad(loss))(random_params(model))
    assert np.abs(grads['inputs']['mask_token']).max() > 0
