"""From a config to everything that a run needs; all of the config is checked before compiling."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bigmodel import devices
from bigmodel.config import ConfigDict
from bigmodel.data.pipeline import Data
from bigmodel.models.model import Model
from bigmodel.tasks.build import build_task
from bigmodel.training.averages import with_average
from bigmodel.training.base import Base
from bigmodel.training.checkpoints import Checkpoints, find_run
from bigmodel.training.companions import Companion, open_companions
from bigmodel.training.evaluated import check_classes
from bigmodel.training.fit import (
    check_format,
)
from bigmodel.training.optimizers import HParams, build_optimizer
from bigmodel.training.outline import (
    Outline,
    check_batch,
    open_rows,
    outline,
    sharding_of,
)
from bigmodel.training.programs import Programs
from bigmodel.training.start import base_of, check_init_from, own_part
from bigmodel.training.state import (
    State,
    init_state,
)


@dataclasses.dataclass(frozen=True)
class Setup(Outline):
    """A run that can start."""

    data: Data
    companions: Mapping[str, Companion]
    base: Base
    programs: Programs = dataclasses.field(default_factory=Programs)

    def _flops(self, trained: Mapping[str, int]) -> int:
        """With the companions' forward passes."""
        companions = sum(c.flops_per_token for c in self.companions.values())
        return super()._flops(trained) + companions

    @property
    def companion_models(self) -> dict[str, Model]:
        """The models of the companions, by name."""
        return {name: c.model for name, c in self.companions.items()}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        return self.data.label_names

    def open_split(self, split: str) -> Data:
        """A split for evaluation: every row once, in order."""
        return open_rows(self.config, self.task, split, self.data.tokenizer, shuffle=False)

    def open_evaluation(self, name: str, config: ConfigDict, split: str, labelled: bool) -> Data:
        """The data of an entry of `evals`, as `config` has it: with this run's classes, or none."""
        check_format(config, self.task)
        labelled = labelled and self.task.labelled and not self.task.learns_unlabelled
        data = open_rows(config, self.task, split, self.data.tokenizer, False, labelled)
        if self.task.predicts != 'tokens':
            check_classes(f'evals.{name}', data.label_names, self.label_names)
        return data

    def initial_state(self) -> State:
        """The state before the first step, with what `init_from` restores."""
        init = self.programs.once('init', self._make_init)
        state = init(self.hparams).replace(companions=self.restore_companions())
        source = self.config.init_from
        if not source.path:
            return state
        run, step = find_run(source.path, 'init_from.path')
        checkpoints = Checkpoints(run / 'checkpoints')
        restored = checkpoints.restore_params(step, self.abstract.params, source.restore)
        checkpoints.close()
        params = jax.tree.map(
            lambda new, old: old if new is None else new,
            restored,
            state.params,
            is_leaf=lambda x: x is None,
        )
        state = dataclasses.replace(state, params=params)
        return self._with_copies(state) if self.optimizer.storage.master else state

    def _with_copies(self, state: State) -> State:
        """The state whose exact copies are those of its parameters."""
        places = jax.tree.map(lambda a: a.sharding, self.abstract.opt_state)
        first = jax.jit(self.optimizer.init, out_shardings=places)
        return dataclasses.replace(state, opt_state=first(state.params, self.hparams))

    def _make_init(self) -> Callable[[HParams], State]:
        placed = jax.tree.map(lambda a: a.sharding, self.abstract.replace(companions={}))
        return jax.jit(
            lambda hparams: init_state(self.model, self.optimizer, hparams),
            out_shardings=placed,
            # Beyond this size slow code costs more than it saves in compilation.
            compiler_options=devices.quick_compile() if self.sizes.num_params < 1e7 else None,
        )

    def saved(self, state: State) -> dict[str, Any]:
        """What a checkpoint of `state` holds."""
        return state.saved | {'params': own_part(state.params, self.optimizer.selection, self.base)}

    def resumed(self, saved: Mapping[str, Any]) -> State:
        """The state of a checkpoint."""
        return State(**saved, companions=self.restore_companions())

    def restore_companions(self) -> dict[str, Any]:
        """The parameters of the companions, by name."""
        return {name: c.restore() for name, c in self.companions.items()}


def build(config: ConfigDict) -> Setup:
    """Checks `config` (resolved) and builds its parts; raises UserError for the first mistake."""
    # Before data is prepared, which may take long and writes to the cache.
    check_batch(config, sharding_of(config))
    task = build_task(config.task)
    check_format(config, task)
    data = open_rows(config, task, 'train', None, shuffle=True)
    plan = outline(config, data)
    companions = open_companions(config, plan.task, data.tokenizer, plan.sharding)
    abstract = plan.abstract.replace(companions={k: c.abstract for k, c in companions.items()})
    base = base_of(config, plan.optimizer.selection, plan.abstract.params)
    opened = {'data': data, 'companions': companions, 'base': base}
    setup = Setup(**vars(plan) | {'abstract': abstract} | opened)
    check_init_from(config, plan.task, data.tokenizer, plan.boxed, plan.abstract.params)
    return setup


def another(setup: Setup, config: ConfigDict) -> Setup:
    """A run of the same programs (programs.py) with other numbers; `config` is resolved."""
    _, hparams = with_average(config, *build_optimizer(config, setup.boxed))
    hparams = jax.device_put(hparams, setup.sharding.replicated())
    data = open_rows(config, setup.task, 'train', setup.data.tokenizer, shuffle=True)
    return dataclasses.replace(setup, config=config, hparams=hparams, data=data)
