"""What an entry of `evals` evaluates: the run's data, or other data of the same kind."""

from collections.abc import Sequence

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError

# Keys of `data` that an evaluation may change: rows stay as the model knows them.
KEYS = ('source', 'mixture', 'path', 'format', 'packing', 'cache_dir', 'workers')


def evaluated(config: ConfigDict, name: str, entry: ConfigDict) -> ConfigDict:
    """`config` with the keys of `data` that `entry.data` changes ('source=text path=...').

    Raises UserError for a key that an evaluation cannot change.
    """
    what = f'evals.{name}.data'
    config = config.copy_and_resolve_references()
    changes = config_lib.pairs(entry.data, what)
    if changes.keys() & {'source', 'path'}:
        config.data.mixture = ()  # data of its own is no part of the run's mixture
    for key, value in changes.items():
        if key not in KEYS:
            raise UserError(
                f'{what}: {key!r} cannot differ from the run; these can: {", ".join(KEYS)}'
            )
        config_lib.override(config, f'data.{key}', value)
    return config


def check_classes(what: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """The number of each class must mean the same as in training."""
    if tuple(theirs) != tuple(ours[: len(theirs)]):
        raise UserError(
            f'{what} has the classes {", ".join(theirs)}, but the run was trained on '
            f'{", ".join(ours) or "none"}; name them in order, as in '
            f"data.format='text(classes={tuple(ours)!r})'"
        )
