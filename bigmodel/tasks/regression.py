"""One number for each row: similarity, rating."""

import dataclasses

import jax
import jax.numpy as jnp

from bigmodel.metrics import Mean, Metrics
from bigmodel.tasks.task import Batch, Judged, ModelFn, RowTask, model_inputs


@dataclasses.dataclass(frozen=True)
class Regression(RowTask):
    """Predicts a row's number, in its own unit, by least squares (Radford et al. 2018, §4.1 and
    Devlin et al. 2018, §4.1, for STS-B).

    Metrics, over rows: `loss` and `mse` (the mean squared error), `mae` (the mean absolute error).
    """

    labelled, learns, predicts = True, 'number', 'number'

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        label = batch['label'].astype(jnp.float32)
        weights = batch.get('valid', jnp.ones_like(label))
        prediction = model(*model_inputs(batch), dropout_key)
        error = prediction - label
        squares = Mean.of(error**2, weights)
        means = {'loss': squares, 'mse': squares, 'mae': Mean.of(jnp.abs(error), weights)}
        return means, {'prediction': prediction, 'target': label, 'weight': weights}
