"""Optimizers: what optax computes, with our regex lists and with traced hyperparameters.

An entry of `OPTIMIZERS` (`directions.py`) gives a direction for a unit learning rate.
`build_optimizer` adds the rest: clipping of the global gradient norm, decoupled weight decay, the
schedule, and per-parameter multipliers. Hyperparameters are traced inputs: the optax chain is
rebuilt inside the step from `hparams`, so runs that differ in them share one compiled program.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.build import make_init
from bigmodel.sharding import is_box
from bigmodel.specs import bind
from bigmodel.training.directions import OPTIMIZERS, Direction
from bigmodel.training.loss_scale import NoScale, build_loss_scale
from bigmodel.training.schedules import SCHEDULES
from bigmodel.training.selection import Selection, multipliers, select
from bigmodel.training.storage import PLAIN, Storage, storage_of

HParams = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """`update` maps gradients to parameter changes; everything numeric comes from `hparams`."""

    direction: Callable[..., Direction]
    schedule: Callable[..., jax.Array]
    selection: Selection
    axes: Any  # of the trained parameters alone, and so are decay and rate
    decay: Any
    rate: Any
    scaling: NoScale
    storage: Storage = PLAIN

    def init(self, params: Any, hparams: HParams) -> optax.OptState:
        """The optimizer state: of what is trained of `params`."""
        return self.storage.first(self.selection.part(params), self._direction(hparams).init)

    def learning_rate(self, step: jax.Array, hparams: HParams) -> jax.Array:
        """The learning rate of `step`."""
        schedule = self.schedule(step, hparams['num_steps'], **hparams['schedule'])
        return hparams['learning_rate'] * schedule

    def norm(self, grads: Any) -> jax.Array:
        """The global norm of gradients."""
        return optax.global_norm(grads)

    def update(
        self,
        grads: Any,
        state: optax.OptState,
        params: Any,
        step: jax.Array,
        hparams: HParams,
        learns: jax.Array | bool = True,
    ) -> tuple[Any, optax.OptState]:
        """New parameters and state, from float32 gradients of the trained part; the old ones unless
        `learns`.

        `clip_norm` 0 leaves gradients as they are.
        """
        clip, part = hparams['clip_norm'], self.selection.part(params)
        exact, own = self.storage.read(part, state)
        norm = self.norm(grads)
        shrink = jnp.where(clip > 0, jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12)), 1.0)
        grads = jax.tree.map(lambda g: g * shrink.astype(g.dtype), grads)
        direction, own = self._direction(hparams).update(grads, own, exact)
        rate = self.learning_rate(step, hparams)

        def apply(p: Any, d: Any, decay: float, multiplier: Any) -> Any:
            d = d + hparams['weight_decay'] * decay * p if decay else d
            return (p - rate * multiplier * d).astype(p.dtype)

        new = jax.tree.map(apply, exact, direction, self.decay, self.rate)
        key = jax.random.fold_in(jax.random.key(hparams['seed']), step)
        new, moved = self.storage.write(key, part, new, own)
        new = self.selection.whole(params, new)
        return jax.tree.map(partial(jnp.where, learns), (new, moved), (params, state))

    def averaged(self, params: Any, state: optax.OptState) -> Any:
        """The parameters to evaluate: those of the last step, or an average (`averages.py`)."""
        return params

    def _direction(self, hparams: HParams) -> Direction:
        return self.direction(self.axes, **hparams['direction'])


def build_optimizer(config: ConfigDict, boxed: Any) -> tuple[Optimizer, HParams]:
    """The optimizer and hyperparameters of a run config.

    `boxed` are abstract parameters that carry their logical axes. Raises UserError for a bad spec
    or regex, and when nothing is trained.
    """
    c = config.optimizer
    direction = bind(OPTIMIZERS, c.name, 'optimizer.name', axes=None)
    schedule = bind(SCHEDULES, config.schedule, 'schedule', step=None, num_steps=None)
    direction_fn, direction_args = numbers_of(direction)
    schedule_fn, schedule_args = numbers_of(schedule)
    axes = jax.tree.map(lambda b: b.names, boxed, is_leaf=is_box)
    shapes = jax.tree.map(lambda b: b.value, boxed, is_leaf=is_box)
    selection = select(config, shapes)
    lists = (
        params_lib.assign(c.rates, shapes, 'optimizer.rates'),
        params_lib.assign(make_init(config.model).rates, shapes, 'model.init'),
        multipliers(config, shapes),
    )
    rates = selection.part(jax.tree.map(lambda *factors: math.prod(factors), *lists))
    decay = params_lib.assign(c.decay, shapes, 'optimizer.decay')
    axes, decay = selection.of(axes), selection.of(decay)
    parts = (direction_fn, schedule_fn, selection, axes, decay, rates)
    optimizer = Optimizer(*parts, build_loss_scale(config), storage_of(config))
    for key in ('learning_rate', 'weight_decay', 'clip_norm'):
        if not c[key] >= 0:
            raise UserError(f'optimizer.{key}={c[key]} must not be negative')
    hparams = {
        'seed': jnp.uint32(config.seed),
        'num_steps': jnp.float32(config.num_steps),
        'learning_rate': jnp.float32(c.learning_rate),
        'weight_decay': jnp.float32(c.weight_decay),
        'clip_norm': jnp.float32(c.clip_norm),
        'direction': direction_args,
        'schedule': schedule_args,
    }
    return optimizer, hparams


def numbers_of(part: functools.partial) -> tuple[functools.partial, dict[str, jax.Array]]:
    """A part with its static arguments bound, and its numeric ones (or defaults) as arrays."""
    known = inspect.signature(part.func).parameters.values()
    values = {p.name: p.default for p in known if p.kind is p.KEYWORD_ONLY} | part.keywords
    values = {k: v for k, v in values.items() if k not in ('axes', 'step', 'num_steps')}
    traced = {k for k, v in values.items() if type(v) is float or k.endswith('_steps')}
    static = {k: v for k, v in values.items() if k not in traced}
    return functools.partial(part.func, **static), {k: jnp.float32(values[k]) for k in traced}
