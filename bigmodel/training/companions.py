"""Companions: frozen models of other runs, which a task asks for by name."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.data.tokenizers import Tokenizer, load_tokenizer
from bigmodel.errors import UserError, nearest
from bigmodel.models.build import build_model, padded_vocab
from bigmodel.models.counts import flops_per_row
from bigmodel.models.model import Model
from bigmodel.sharding import Sharding
from bigmodel.tasks.build import build_task
from bigmodel.tasks.task import Task
from bigmodel.training.checkpoints import find_run
from bigmodel.training.fit import plan_stages
from bigmodel.training.restore import learned_length, refusal, restored_params
from bigmodel.training.state import abstract_params


@dataclasses.dataclass(frozen=True)
class Companion:
    """The model of a checkpoint, and what its parameters are on this run's mesh."""

    checkpoint: str
    model: Model
    abstract: Any
    flops_per_token: int  # forward alone, of the rows that this run has

    def restore(self) -> Any:
        """The parameters."""
        return restored_params(self.checkpoint, 0, self.abstract)[0]


def named(config: ConfigDict) -> dict[str, str]:
    """The run directory of each companion that the task of `config` asks for.

    A reference is `init_from.path` where `companions` names none. Raises UserError for one that is
    missing.
    """
    given = {'reference': config.init_from.path} if config.init_from.path else {}
    for text in map(str, config.companions):
        name, _, path = (part.strip() for part in text.partition(':'))
        if not name.isidentifier() or not path:
            raise UserError(f"companions: cannot read {text!r}; write 'name: run directory'")
        given[name] = path
    wanted = build_task(config.task).companions
    for name in wanted:
        if name not in given:
            raise UserError(
                f"task={config.task!r} needs a {name}: set companions=('{name}: RUN',) to the "
                f'directory of a run.{nearest(name, given)}'
            )
    return {name: given[name] for name in wanted}


def open_companions(
    config: ConfigDict, task: Task, tokenizer: Tokenizer, sharding: Sharding
) -> dict[str, Companion]:
    """The companions of a resolved config, without their parameters.

    Raises UserError for a model that does not read what this run reads, or has other tokens.
    """
    found = {}
    for name, path in named(config).items():
        run, step = find_run(path, f'companions: {name}')
        theirs = config_lib.read_json(run / 'config.json')
        if load_tokenizer(run / 'tokenizer').fingerprint != tokenizer.fingerprint:
            raise UserError(
                f'companions: the {name} {path!r} was trained with another tokenizer than '
                f'data.tokenizer={config.data.tokenizer!r}'
            )
        who = f'companions: the {name} {path!r}'
        if why := REFUSALS[task.companions_are](theirs):
            raise UserError(f'{who} {why}')
        _check(config, task, theirs, tokenizer.vocab_size, who)
        check_stages(config, theirs, sharding, who)
        num_ids = tokenizer.vocab_size + task.extra_ids
        model = build_model(theirs.model, num_ids, 0, sharding.platform)
        boxed = abstract_params(model)
        abstract = jax.tree.map(
            lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
            nn.unbox(boxed),
            sharding.of_params(boxed),
        )
        row = flops_per_row(theirs.model, boxed, *task.lengths(config.data.seq_len), {})
        forward = round(row / config.data.seq_len)
        found[name] = Companion(f'{run}/checkpoints/{step}', model, abstract, forward)
    return found


def _check(config: ConfigDict, task: Task, theirs: ConfigDict, ids: int, who: str) -> None:
    """The same tokens, at any place of the rows."""
    sizes = [
        padded_vocab(c.model.vocab_size, ids + t.extra_ids)
        for c, t in ((theirs, build_task(theirs.task)), (config, task))
    ]
    if sizes[0] != sizes[1] or build_task(theirs.task).extra_ids != task.extra_ids:
        raise UserError(
            f'{who} has {sizes[0]} ids, this model {sizes[1]}, of which their tasks add '
            f'{build_task(theirs.task).extra_ids} and {task.extra_ids}; both must be the same: '
            f'set model.vocab_size, or name another run'
        )
    learned, length = learned_length(theirs), task.lengths(config.data.seq_len)[0]
    if 0 < learned < length:
        raise UserError(
            f'{who} has learned positions for {learned} tokens; set data.seq_len to at most that'
        )


def check_stages(config: ConfigDict, theirs: ConfigDict, sharding: Sharding, who: str) -> None:
    """Its layers go through the stages of this run, if there are any."""
    if sharding.ways('layers') > 1 and theirs.model.share == 'none':
        try:
            plan_stages(theirs.model, config, sharding)
        except UserError as e:
            raise UserError(f'{who}: {e}') from e


def _no_decoder(theirs: ConfigDict) -> str:
    """Why a model does not read tokens from one side and says the next one, or ''."""
    why = refusal(theirs) or _other_reading(theirs)
    return why and f'{why}; name a causal decoder'


def _other_reading(theirs: ConfigDict) -> str:
    """What a model that generates text may read beside the tokens before the next one, or ''."""
    if theirs.model.encoder_depth:
        return 'has an encoder'
    return 'reads a prefix from both sides' if build_task(theirs.task).prefixed else ''


def _no_masked_lm(theirs: ConfigDict) -> str:
    """Why a model does not say what hidden tokens are, or ''."""
    task = build_task(theirs.task)
    if task.two_sided and not task.prefixed and task.heads == ('tokens',):
        return ''
    return f'has learned {theirs.task!r}; name a run of masked_lm'


# What a task says that its companions are -> why the model of a config is not that, or ''.
REFUSALS = {'decoder': _no_decoder, 'masked_lm': _no_masked_lm}
