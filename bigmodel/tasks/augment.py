"""Light augmentation of images: what a training row is changed to, from random numbers."""

import numpy as np
from jaxtyping import UInt8

from bigmodel.data.draws import Draws
from bigmodel.errors import UserError

Images = UInt8[np.ndarray, 'n height width channels']


def shifted(images: Images, draws: Draws, most: int) -> Images:
    """Each image moved by −most to most pixels down and to the right, black beyond its borders.

    As cropping an image that was padded by `most` (Lee et al. 2015). Raises UserError where that
    could leave nothing of an image.
    """
    n, height, width, _ = images.shape
    if most >= min(height, width):
        raise UserError(
            f'task: classification(shift={most}) can move images of {height}×{width} pixels out of '
            f'sight; set shift below {min(height, width)}'
        )
    down, right = draws.below(2 * most + 1, 2).T[:, :, None]
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    rows, columns = down + np.arange(height), right + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flipped(images: Images, draws: Draws) -> Images:
    """Each image as it is, or, in half of the cases, its mirror image."""
    mirror = draws.below(2, 1)[:, :, None, None] == 1
    return np.where(mirror, images[:, :, ::-1], images)
