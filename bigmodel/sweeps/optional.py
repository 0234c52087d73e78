"""Packages that only some sweeps need."""

import types

from bigmodel.errors import UserError


def optuna(what: str) -> types.ModuleType:
    """The package, which says nothing unless something is wrong; raises UserError without it."""
    try:
        import optuna
    except ImportError as e:
        raise UserError(f'{what} of a sweep needs optuna: pip install optuna') from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
