"""What a config says of a run, without its data: checked, and nothing computed yet."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bigmodel.config import ConfigDict
from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import Data, open_data
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.layers.kernels import Choose, choose, choose_for
from bigmodel.models import presets
from bigmodel.models.build import build_model, kernel_name
from bigmodel.models.counts import flops_per_row
from bigmodel.models.heads import heads_of
from bigmodel.models.model import Model
from bigmodel.sharding import Sharding, make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.tasks.task import Rows, Task
from bigmodel.training import loss_scale
from bigmodel.training.averages import with_average
from bigmodel.training.batches import host_rows
from bigmodel.training.companions import named
from bigmodel.training.fit import (
    check_adapter,
    check_format,
    check_head,
    check_inputs,
    check_masks,
    check_matmul,
    check_prompt,
    check_stages,
)
from bigmodel.training.optimizers import HParams, Optimizer, build_optimizer
from bigmodel.training.sizes import Sizes, sizes_of
from bigmodel.training.state import (
    State,
    abstract_params,
    abstract_state,
    state_sharding,
)
from bigmodel.training.storage import check_host_memory


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a config says of a run, without its data: checked, and nothing computed yet."""

    config: ConfigDict
    sharding: Sharding
    task: Task
    model: Model
    optimizer: Optimizer
    hparams: HParams
    boxed: Any
    abstract: State
    kernel: str

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the rows of one update, padding included."""
        return self.config.data.batch_size * self.task.group * self.config.data.seq_len

    @property
    def flops_per_token(self) -> int:
        """Training FLOPs a token of the rows that the data has, with no gradients of what is frozen
        (models/counts.py).
        """
        return self._flops(self.optimizer.selection.layers())

    @property
    def forward_flops_per_token(self) -> int:
        """Of them those of an evaluation."""
        return self._flops({})

    def _flops(self, trained: Mapping[str, int]) -> int:
        seq_len = self.config.data.seq_len
        lengths = self.task.lengths(seq_len)
        return round(flops_per_row(self.config.model, self.boxed, *lengths, trained) / seq_len)

    @property
    def platform(self) -> str:
        """What computes: 'cpu', 'gpu' or 'tpu'."""
        return self.sharding.platform

    @property
    def sizes(self) -> Sizes:
        """How many parameters there are and are trained, and their and the optimizer's bytes."""
        return sizes_of(self.abstract, self.optimizer)


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy of `config` with the model's size and companions filled in; checks plain numbers."""
    config = config.copy_and_resolve_references()
    for key in ('num_steps', 'accumulate', 'log_every'):
        if config[key] < 1:
            raise UserError(f'{key}={config[key]} must be at least 1')
    for key in ('seq_len', 'batch_size'):
        if config.data[key] < 1:
            raise UserError(f'data.{key}={config.data[key]} must be at least 1')
    if config.checkpoint.every < 1 or config.checkpoint.keep < 1:
        raise UserError('checkpoint.every and checkpoint.keep must be at least 1')
    if not 0 <= config.seed < 2**32:
        raise UserError(f'seed={config.seed} must be in [0, 2**32)')
    for name, e in config.evals.items():
        if e.every < 1 or e.batches < 0:
            raise UserError(f'evals.{name}: every must be at least 1 and batches at least 0')
        if e.generate_rows < 0 or e.max_tokens < 1:
            raise UserError(
                f'evals.{name}: generate_rows must be at least 0 and max_tokens at least 1'
            )
    for key in ('checkpoint.keep_every', 'sharding.host_devices', 'data.workers'):
        group, _, last = key.partition('.')
        if config[group][last] < 0:
            raise UserError(f'{key}={config[group][last]} must not be negative')
    presets.resolve(config.model, config.data.seq_len)
    config.optimizer.loss_scale = loss_scale.resolved(config)
    config.companions = tuple(f'{name}: {path}' for name, path in named(config).items())
    return config


def outline(
    config: ConfigDict, data: Data | None = None, chips: Sequence[Any] | None = None
) -> Outline:
    """`build` as far as it goes without data, on `chips` that need not be there (default: ours).

    Opens `data` only where the model depends on it: for the number of labels, and for the size of
    the vocabulary when `model.vocab_size` is 0.
    """
    sharding = sharding_of(config, chips)
    check_batch(config, sharding)
    task = build_task(config.task)
    check_format(config, task)
    platform = sharding.platform
    labels = task.labelled or any(h.predicts != 'tokens' for h in heads_of(config.model.head))
    if data is None and (labels or not config.model.vocab_size):
        here = config if chips is None else _of_one_device(config)
        data = open_rows(here, task, 'train', None, shuffle=True)
    choose = choose_for(sharding.splits_rows)
    model = model_of(config, task, data, platform, choose)
    if data:
        check_inputs(config, task, model, data)
    boxed = abstract_params(model)
    optimizer, hparams = with_average(config, *build_optimizer(config, boxed))
    shapes = abstract_state(boxed, optimizer, hparams)
    abstract = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        shapes,
        state_sharding(sharding, boxed, shapes, optimizer.storage),
    )
    if chips is None:
        # Placed once: a step would send them to every device again.
        hparams = jax.device_put(hparams, sharding.replicated())
    else:
        place = sharding.replicated()
        hparams = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), hparams
        )
    check_host_memory(config, sharding.mesh.devices.flat[0])
    kernel = kernel_name(config.model, platform, choose)
    plan = Outline(config, sharding, task, model, optimizer, hparams, boxed, abstract, kernel)
    check_masks(config, task, model)
    check_head(config, task, model, abstract.params)
    check_prompt(config)
    check_matmul(config.model, abstract.params)
    check_adapter(config, optimizer.selection.trained)
    return plan


def _of_one_device(config: ConfigDict) -> ConfigDict:
    """With a mesh that there is here, for data that a plan for other chips reads."""
    config = config.copy_and_resolve_references()
    config.sharding.mesh, config.sharding.rules = 'data=1', 'dp'
    config.sharding.pipeline = 'gpipe'
    return config


def sharding_of(config: ConfigDict, chips: Sequence[Any] | None = None) -> Sharding:
    """The mesh and rules of a config, on `chips` (default: ours)."""
    c = config.sharding
    return make_sharding(c.mesh, c.rules, chips, c.pipeline)


def model_of(
    config: ConfigDict, task: Task, data: Data | None, platform: str, choose: Choose = choose
) -> Model:
    """The model for this task and data; `choose` gives it its kernels."""
    vocab_size = data.tokenizer.vocab_size + task.extra_ids if data else config.model.vocab_size
    num_labels = len(data.label_names) if data else 0
    return build_model(config.model, vocab_size, num_labels, platform, choose)


def open_rows(
    config: ConfigDict,
    task: Task,
    split: str,
    tokenizer: Any,
    shuffle: bool,
    labelled: bool | None = None,
) -> Data:
    sharding = sharding_of(config)

    def augment_and_prepare(rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        return task.prepare(task.augment(rows, draws), draws, tokenizer)

    return open_data(
        config.data,
        split,
        length=config.data.seq_len + task.extra_tokens,
        overlap=task.extra_tokens,
        seed=config.seed,
        shuffle=shuffle,
        labelled=task.labelled if labelled is None else labelled,
        some_unlabelled=task.skips_unlabelled,
        tokenizer=tokenizer,
        prepare=augment_and_prepare if shuffle else task.prepare,
        host_rows=host_rows(sharding, config.data.batch_size),
    )


def check_batch(config: ConfigDict, sharding: Sharding) -> None:
    ways, rows = sharding.batch_ways, config.data.batch_size
    if rows % (ways * config.accumulate):
        raise UserError(
            f'data.batch_size={rows} is not a multiple of {ways * config.accumulate} = {ways} '
            f'devices that split the batch × accumulate={config.accumulate}'
        )
    check_stages(config, sharding)
