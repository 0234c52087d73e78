"""Where a run starts: what `init_from` must fit, and what need not be saved because of it."""

from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.data.tokenizers import Tokenizer, load_tokenizer
from bigmodel.errors import UserError
from bigmodel.tasks.task import Task
from bigmodel.training.base import Base
from bigmodel.training.checkpoints import Checkpoints, find_run
from bigmodel.training.restore import check_vocabulary
from bigmodel.training.selection import Selection


def check_init_from(
    config: ConfigDict, task: Task, ours: Tokenizer, boxed: Any, params: Any
) -> None:
    """Raises UserError for a run to start from that does not fit; reads no parameters."""
    source = config.init_from
    if not source.path:
        return
    run, step = find_run(source.path, 'init_from.path')
    theirs = load_tokenizer(run / 'tokenizer')
    they_read, we_read = ('tokens' if t.vocab_size else 'images' for t in (theirs, ours))
    if they_read != we_read:
        raise UserError(
            f'init_from.path={source.path!r} was trained on {they_read}, but data.source='
            f'{config.data.source!r} gives {we_read}; choose another run or source'
        )
    if theirs.fingerprint != ours.fingerprint:
        raise UserError(
            f'init_from.path={source.path!r} was trained with another tokenizer than '
            f'data.tokenizer={config.data.tokenizer!r}'
        )
    checkpoints, num_ids = Checkpoints(run / 'checkpoints'), ours.vocab_size + task.extra_ids
    check_vocabulary(checkpoints.param_shapes(step), boxed, source, num_ids)
    checkpoints.check_params(step, params, source.restore)


def base_of(config: ConfigDict, selection: Selection, params: Any) -> Base:
    """What checkpoints leave out where `checkpoint.only_trained`: what `init_from` restores and is
    frozen. A parameter that starts at random is saved, also when it is frozen.
    """
    if not config.checkpoint.only_trained:
        return Base()
    source = config.init_from
    if not source.path:
        raise UserError(
            'checkpoint.only_trained leaves out what is frozen and read from init_from.path, which '
            'is empty; name a run to start from, or set checkpoint.only_trained=False'
        )
    run, step = find_run(source.path, 'init_from.path')
    restored = params_lib.assign(source.restore, params, 'init_from.restore')
    left_out = jax.tree.map(
        lambda r, trained, first: bool(r) and (not trained or first > 0),
        restored,
        selection.trained,
        selection.first,
    )
    paths = tuple(path for path, out in params_lib.flatten(left_out).items() if out)
    if not paths:
        raise UserError(
            'checkpoint.only_trained leaves out what is frozen, but optimizer.train trains all '
            'that init_from.restore restores; set checkpoint.only_trained=False'
        )
    return Base(f'{run}/checkpoints/{step}', paths)


def own_part(params: Any, selection: Selection, base: Base) -> Any:
    """The parameters that a checkpoint holds, the others being those of the base."""
    if not base.parameters:
        return params
    trained = params_lib.flatten(selection.part(params))
    flat = params_lib.flatten(params)
    own = {p: trained.get(p) if p in base.parameters else x for p, x in flat.items()}
    return params_lib.nest({path: x for path, x in own.items() if x is not None})
