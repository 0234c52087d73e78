"""Policies of `model.remat`: what the backward pass finds kept, and what it computes again.

What a policy keeps is in one repetition of the layer pattern; the residual stream between
repetitions is always kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from bigmodel.errors import UserError, unknown
from bigmodel.layers.names import NAMES
from bigmodel.specs import make, parse

Policy = Callable[..., Any]

HOST = 'pinned_host'  # the memory of the host that a device reads by itself


def none() -> None:
    """Everything that the backward pass reads is kept, nothing computed again."""


def full() -> Policy:
    """Nothing is kept: the backward pass computes each layer again (Chen et al. 2016)."""
    return jax.checkpoint_policies.nothing_saveable


def dots() -> Policy:
    """Every matrix product is kept, also those of queries with keys, L² numbers a head."""
    return jax.checkpoint_policies.dots_saveable


def dots_no_batch() -> Policy:
    """Products with weights are kept, those of queries with keys computed again."""
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def save(*, names: tuple = ('attention_out',)) -> Policy:
    """What bears one of the `names` is kept (layers/names.py)."""
    _check('save', names)
    return jax.checkpoint_policies.save_only_these_names(*names)


def offload(*, names: tuple = ('block_input',), saved: tuple = ()) -> Policy:
    """What bears one of the `names` waits in the host's memory for the backward pass; what bears
    one of `saved` is kept on the device.
    """
    _check('offload', names)
    _check('offload', (*names, *saved))
    both = set(names) & set(saved)
    if both:
        raise UserError(f'model.remat: offload has {min(both)!r} in names and in saved; choose one')
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(saved),
        names_which_can_be_offloaded=list(names),
        offload_src='device',
        offload_dst=HOST,
    )


REMAT: dict[str, Callable[..., Policy | None]] = {
    'none': none,
    'full': full,
    'dots': dots,
    'dots_no_batch': dots_no_batch,
    'save': save,
    'offload': offload,
}


def policy_of(spec: str) -> Policy | None:
    """The policy of a spec, None for 'none'; raises UserError for a name that nothing bears."""
    return make(REMAT, spec, 'model.remat')


def offloads(spec: str) -> bool:
    """Whether the policy of a spec keeps anything on the host."""
    return parse(spec, 'model.remat').name == 'offload'


def is_host(x: Any) -> bool:
    """Whether an abstract array lies in the memory of the host."""
    return getattr(x, 'memory_space', None) == jax.memory.Space.Host


def _check(policy: str, names: Sequence[Any]) -> None:
    if not names:
        raise UserError(f"model.remat: {policy}(names=()) keeps nothing; write 'full'")
    for name in names:
        if not isinstance(name, str) or name not in NAMES:
            raise unknown(f'name in model.remat={policy}(...)', str(name), NAMES)
