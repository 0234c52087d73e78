"""An average of the weights over the steps, which evaluations and later runs read."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.training.optimizers import HParams, Optimizer


@dataclasses.dataclass(frozen=True)
class Averaging(Optimizer):
    """An optimizer that keeps the exponential average of the trained parameters in its state
    (Polyak & Juditsky 1992, Tarvainen & Valpola 2017).

    Step t enters with weight (1−d)/(1−d^t): the bias correction of Kingma & Ba 2014, §3, so that
    the average is one of parameters after steps alone, from the first one; also after a step that
    changed none.
    """

    def init(self, params: Any, hparams: HParams) -> Any:
        # Always float32: a step's share of it is small.
        part = self.selection.part(params)
        average = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), part)
        return {'optimizer': super().init(params, hparams), 'average': average}

    def update(
        self,
        grads: Any,
        state: Any,
        params: Any,
        step: jax.Array,
        hparams: HParams,
        learns: jax.Array | bool = True,
    ) -> tuple[Any, Any]:
        params, inner = super().update(grads, state['optimizer'], params, step, hparams, learns)
        log_d = jnp.log(hparams['ema'])
        weight = jnp.expm1(log_d) / jnp.expm1((step + 1) * log_d)
        average = jax.tree.map(
            lambda old, new: (old + weight * (new - old)).astype(old.dtype),
            state['average'],
            self.selection.part(params),
        )
        return params, {'optimizer': inner, 'average': average}

    def averaged(self, params: Any, state: Any) -> Any:
        average = self.storage.fetch(state['average'])
        part = self.selection.part(params)
        average = jax.tree.map(lambda a, p: a.astype(p.dtype), average, part)
        return self.selection.whole(params, average)


def with_average(
    config: ConfigDict, optimizer: Optimizer, hparams: HParams
) -> tuple[Optimizer, HParams]:
    """The optimizer as it is, or Averaging when `optimizer.ema` says so."""
    decay = config.optimizer.ema
    if not 0 <= decay < 1:
        raise UserError(f'optimizer.ema={decay} must be in [0, 1); 0: no average')
    if not decay:
        return optimizer, hparams
    return Averaging(**vars(optimizer)), hparams | {'ema': jnp.float32(decay)}
