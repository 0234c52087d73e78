"""Prediction of the pixels of hidden squares of an image: pre-training without labels."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.layers.inputs import images_of, pixels, spread
from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import POSITIVE, SHARE
from bigmodel.tasks.task import Batch, ModelFn, Rows, Task


@dataclasses.dataclass(frozen=True)
class MaskedImages(Task):
    """Predicts the pixels of hidden squares (Xie et al. 2022, SimMIM), chosen anew each time that
    an image comes.

    An image is cut into squares of `size` × `size` pixels, a multiple of the model's patches; the
    share `rate` of them is hidden, at least one, and one is seen. Metrics, over hidden pixels, each
    channel counted, as the model is given them (−1 to 1): `loss`, the mean absolute error, and
    `mse`.
    """

    size: Annotated[int, POSITIVE] = 32
    rate: Annotated[float, POSITIVE, SHARE] = 0.6
    reads, predicts = ('image',), 'pixels'
    two_sided = True

    @property
    def hides(self) -> int:
        return self.size

    def augment(self, rows: Rows, draws: Draws) -> Rows:
        self._grid(rows)  # a size that does not fit is found before a run starts
        return rows

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`hidden`: which squares are, (n, rows, columns)."""
        height, width = self._grid(rows)
        squares = height * width
        count = min(max(round(self.rate * squares), 1), squares - 1)
        hidden = np.zeros((draws.num_rows, squares), bool)
        np.put_along_axis(hidden, draws.distinct(squares, count), True, 1)
        return rows | {'hidden': hidden.reshape(-1, height, width)}

    def _grid(self, rows: Rows) -> tuple[int, int]:
        """Rows and columns of squares of an image; raises UserError where there are none."""
        _, height, width, _ = rows['image'].shape
        if height % self.size or width % self.size:
            raise UserError(
                f'task: masked_images(size={self.size}) does not divide images of {height}×{width} '
                f'pixels; choose a size that does'
            )
        if self.size == height == width:
            raise UserError(
                f'task: masked_images(size={self.size}) would hide the whole image; choose a '
                f'smaller size'
            )
        return height // self.size, width // self.size

    def __call__(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        images, hidden = batch['image'], batch['hidden']
        patches_BNP = model(images, None, None, dropout_key, hidden=hidden)
        error = images_of(patches_BNP, images.shape) - pixels(images)
        weights = spread(hidden, *images.shape[1:3])[..., None].astype(jnp.float32)
        if 'valid' in batch:
            weights *= batch['valid'][:, None, None, None]
        weights = jnp.broadcast_to(weights, images.shape)
        return {'loss': Mean.of(jnp.abs(error), weights), 'mse': Mean.of(error**2, weights)}
