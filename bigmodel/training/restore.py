"""A run's model again: parameters from its checkpoint, without its data or optimizer."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.layers.masks import MASKS
from bigmodel.models.stack import layer_specs
from bigmodel.sharding import is_box
from bigmodel.specs import make, parse
from bigmodel.training.checkpoints import Checkpoints, find_run


def restored_params(workdir: str, step: int | str, abstract: Any) -> tuple[Any, int]:
    """The parameters of `step` (0: the newest, 'best') of a run, placed as `abstract` says."""
    run, chosen = checkpoint_of(workdir, step)
    checkpoints = Checkpoints(run / 'checkpoints')
    try:
        return checkpoints.restore_params(chosen, abstract, (('.*', True),)), chosen
    finally:
        checkpoints.close()


def checkpoint_of(workdir: str, step: int | str) -> tuple[pathlib.Path, int]:
    """A run and the step of it (0: the newest, 'best'), which must be there."""
    best = step == 'best'
    run, found = find_run(f'{workdir}/checkpoints/best' if best else workdir, '--workdir')
    chosen = found if best or not step else step
    if not (run / 'checkpoints' / str(chosen)).is_dir():
        there = sorted(int(p.name) for p in (run / 'checkpoints').iterdir() if p.name.isdigit())
        raise UserError(f'--step={chosen}: there is no such checkpoint in {run}; there: {there}')
    return run, chosen


def refusal(config: ConfigDict) -> str:
    """Why the model of a resolved config cannot generate text ('has …'), or ''."""
    if parse(config.model.head, 'model.head').name != 'lm':
        return f'has the head {config.model.head!r}; only lm generates text'
    for mask in (layer['mask'] for layer in layer_specs(config.model)):
        part = make(MASKS, mask, 'model.mask')
        if not (part.causal or part.of_batch):
            return f'has the mask {mask!r}; only causal models generate text'
    return ''


def learned_length(config: ConfigDict) -> int:
    """How many positions the model of a run has learned; 0 when it can take any."""
    learned = parse(config.model.position, 'model.position').name == 'learned'
    return config.model.max_length if learned else 0


def check_vocabulary(
    found: Mapping[str, tuple[int, ...]], boxed: Any, source: ConfigDict, num_ids: int
) -> None:
    """Raises UserError where `source` (init_from) would restore a vocabulary of another size.

    `found` are the shapes of the checkpoint's parameters, `num_ids` the ids that this run needs.
    Sizes differ between runs on the same tokenizer because a task may have ids of its own.
    """
    wanted = params_lib.assign(source.restore, boxed, 'init_from.restore')
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
    for (key_path, box), restored in zip(leaves, jax.tree.leaves(wanted), strict=True):
        path = params_lib.path_of(key_path)
        theirs = found.get(path)
        if restored and theirs and 'vocab' in box.names:
            dim = box.names.index('vocab')
            _check_ids(path, theirs[dim], box.value.shape[dim], num_ids, source.path)


def _check_ids(path: str, theirs: int, ours: int, needed: int, where: str) -> None:
    if theirs == ours:
        return
    fix = f'set model.vocab_size={theirs}'
    if theirs < needed:
        fix = f'train that run with model.vocab_size={ours}, or leave it out of init_from.restore'
    raise UserError(
        f'{path} has {theirs} ids in init_from.path={where!r} and {ours} in this model, which '
        f'needs {needed}; {fix}'
    )
