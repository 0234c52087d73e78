"""Augmentation of images: what it may do, how often, and that evaluation is spared."""

import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import Batches
from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.tasks.augment import flipped, shifted
from bigmodel.tasks.build import build_task

ROWS, HEIGHT, WIDTH = 400, 5, 6


def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (ROWS, HEIGHT, WIDTH, 2)).astype(np.uint8)


def draws() -> Draws:
    return Draws(np.arange(ROWS, dtype=np.uint64))


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """By a loop over pixels."""
    out = np.zeros_like(image)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            if 0 <= y - down < HEIGHT and 0 <= x - right < WIDTH:
                out[y, x] = image[y - down, x - right]
    return out


def test_an_image_is_moved_to_each_place_as_often_as_to_any_other() -> None:
    x, places = images(), [(d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    found = dict.fromkeys(places, 0)
    for before, after in zip(x, shifted(x, draws(), 1), strict=True):
        (place,) = [p for p in places if (moved(before, *p) == after).all()]
        found[place] += 1
    # 400 draws of 9 places: 44 each, within four standard deviations.
    assert all(abs(count - ROWS / 9) < 4 * 6.3 for count in found.values()), found


def test_half_of_the_images_are_mirrored() -> None:
    x = images()
    y = flipped(x, draws())
    same, mirrored = ((y == other).all((1, 2, 3)) for other in (x, x[:, :, ::-1]))
    assert (same ^ mirrored).all() and abs(same.sum() - ROWS / 2) < 4 * 10


@pytest.mark.parametrize('make', [lambda x, d: shifted(x, d, 2), flipped])
def test_what_becomes_of_an_image_depends_on_its_own_draws_alone(make) -> None:
    x, some = images(), np.array([7, 3, 100])
    whole, few = make(x, draws()), make(x[some], Draws(some.astype(np.uint64)))
    np.testing.assert_array_equal(few, whole[some])


class Pictures:
    """Rows of images and labels."""

    length, num_truncated, labelled, padding_share = 1, 0, True, 0.0
    documents = NO_DOCUMENTS

    def __len__(self) -> int:
        return ROWS

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {'image': images()[indices], 'label': np.asarray(indices, np.int32)}


def test_an_image_is_changed_anew_in_each_epoch_and_its_label_stays() -> None:
    task = build_task('classification(shift=2, flip=True)')
    batches = Batches(Pictures(), ROWS, prepare=task.augment)
    first, second = (batches(epoch) for epoch in (0, 1))
    orders = [np.argsort(b['label']) for b in (first, second)]
    a, b = (x['image'][o] for x, o in zip((first, second), orders, strict=True))
    assert sorted(first['label']) == list(range(ROWS))
    assert 0.9 < (a != b).any((1, 2, 3)).mean() < 1
    np.testing.assert_array_equal(batches(0)['image'], first['image'])


def test_without_arguments_rows_stay_as_they_are() -> None:
    rows = Pictures().take(np.arange(3))
    assert build_task('classification').augment(rows, draws()) is rows
