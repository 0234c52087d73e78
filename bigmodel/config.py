"""Run configs: load a file of experiments/, apply `--config.key=value`, write and compare JSON."""

import ast
import copy
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shlex
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from bigmodel.errors import UserError, nearest

ConfigDict = ml_collections.ConfigDict


def load(path_and_arg: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Loads `'experiments/x.py'` or `'experiments/x.py:arg'` and applies overrides.

    The file defines `get_config(arg='')`. Overrides are (dotted key, text) pairs; the text is read
    as the type that the key already has. Raises UserError for a missing file, an unknown key (with
    the nearest one) or a value of the wrong type.
    """
    path, _, arg = path_and_arg.partition(':')
    module = load_module(path)
    if not hasattr(module, 'get_config'):
        raise UserError(f"{path} does not define get_config(arg='')")
    get_config = module.get_config
    try:
        takes_arg = bool(inspect.signature(get_config).parameters)
        config = get_config(arg) if takes_arg else get_config()
    except AttributeError as e:  # a locked ConfigDict names the key and the nearest one
        raise UserError(f'{path}: {str(e).splitlines()[0]}') from e
    except TypeError as e:  # a ConfigDict holds each key to its type
        raise UserError(f'{path}: {str(e).splitlines()[0]}') from e
    for key, text in overrides:
        override(config, key, text)
    return config


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets the dotted `key` of `config` from command-line `text`, keeping the key's type."""
    known = dict(flatten(config))
    if key not in known:
        inside = [k for k in known if k.startswith(key + '.')]
        if inside:
            raise UserError(f'--config.{key} is a group; set one of: {", ".join(inside)}')
        raise UserError(
            f'unknown config key {key!r}.{nearest(key, known)} '
            f'(experiments/defaults.py lists every key)'
        )
    *groups, last = key.split('.')
    for group in groups:
        config = config[group]
    config[last] = _read(text, known[key], key)


def read_entry(key: str, text: str, usage: str) -> tuple[str, list[str], dict[str, str]]:
    """Reads an entry of the tuple `key`, 'name: word key=value ...': name, words and changes.

    Words are quoted as in a shell. Raises UserError, which says what to write, for anything else.
    """
    name, colon, rest = text.partition(':')
    mistake = UserError(f'{key}: cannot read {text!r}; write {usage!r}')
    if not colon:
        raise mistake
    if not name.isidentifier():
        raise UserError(
            f"{key}: the name {name!r} must be of letters, digits and '_', as in "
            f'{_identifier(name)!r}; write {usage!r}'
        )
    return name, *_words_and_pairs(rest, key, mistake)


def _identifier(name: str) -> str:
    """The nearest name that `isidentifier`."""
    kept = re.sub(r'\W+', '_', name).strip('_')
    return kept if kept.isidentifier() else f'part_{kept}'.rstrip('_')


def pairs(text: str, what: str) -> dict[str, str]:
    """The value of each key of 'key=value key=value', quoted as in a shell; `what` begins an
    error.
    """
    mistake = UserError(f"{what}: cannot read {text!r}; write 'key=value key=value'")
    words, found = _words_and_pairs(text, what, mistake)
    if words or '' in found:
        raise mistake
    return found


# What a shell takes as one: an escaped character, or a quoted text.
QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""")
LOST_QUOTES = re.compile(r'\([^)]*"')


def _hidden(found: re.Match) -> str:
    return '' if found[0][0] == '\\' else '""'


def _words_and_pairs(text: str, what: str, mistake: UserError) -> tuple[list[str], dict[str, str]]:
    if LOST_QUOTES.search(QUOTED.sub(_hidden, text)):
        raise UserError(
            f'{what}: {text.strip()!r} is read as a shell reads it, which eats quotes inside '
            f"""brackets; write others around the whole, as in 'source=tfds("mnist")'"""
        )
    try:
        parts = shlex.split(text)
    except ValueError as e:  # a quote that does not end
        raise mistake from e
    found = [part.partition('=') for part in parts if '=' in part]
    return [part for part in parts if '=' not in part], {k: value for k, _, value in found}


def flatten(config: Mapping | ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every leaf of a ConfigDict or nested dict."""
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict) and len(value):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def to_json(config: ConfigDict) -> str:
    """The config as readable JSON, keys sorted (tuples become lists)."""
    return json.dumps(to_dict(config), indent=2) + '\n'


def to_dict(config: Mapping | ConfigDict) -> dict[str, Any]:
    """A plain nested dict as JSON would give it back: tuples as lists."""
    return json.loads(json.dumps(_plain(config)))


def from_dict(plain: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `to_dict`: lists become tuples again."""
    return ConfigDict(_untuple(plain))


# Keys that came after the first run directories, with the value that does what was done before.
# '*' is every entry of a group.
ADDED = {
    'stop_early': '',
    'data.mixture': (),
    'model.prompt': 'none',
    'model.matmul': 'full',
    'optimizer.last_layers': 0,
    'optimizer.layer_decay': 1.0,
    'model.param_dtype': 'float32',
    'optimizer.state_dtype': 'float32',
    'optimizer.rounding': 'stochastic',
    'optimizer.master': False,
    'optimizer.offload': False,
    'optimizer.loss_scale': 'none',
    'evals.*.scores': (),
    'evals.*.data': '',
    'evals.*.generate_rows': 64,
    'evals.*.max_tokens': 64,
    'checkpoint.only_trained': False,
    'checkpoint.best': '',
    'sharding.pipeline': 'gpipe',
}

REMOVED = ('baselines',)  # keys of older run directories, which changed nothing of their runs


def read_json(path: str | os.PathLike) -> ConfigDict:
    """Reads a run's config.json, an older one with the keys of today (`of_today`).

    Raises UserError when it is missing or damaged.
    """
    try:
        plain = json.loads(pathlib.Path(path).read_text())
        if not isinstance(plain, dict):
            raise TypeError('it holds no keys')
        return from_dict(of_today(plain))
    except FileNotFoundError:
        raise UserError(f'{path} does not exist: this is not a run directory') from None
    except (json.JSONDecodeError, TypeError, AttributeError, UnicodeDecodeError) as e:
        raise UserError(
            f'{path} is damaged ({e}); restore it, or start the run in another --workdir'
        ) from e


def of_today(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config as JSON has it, with the keys that an older one lacks (`ADDED`) and
    without those that are gone (`REMOVED`).
    """
    plain = {k: copy.deepcopy(v) for k, v in plain.items() if k not in REMOVED}
    for key, value in ADDED.items():
        _add(plain, key.split('.'), value)
    return plain


def _add(group: Any, path: list[str], value: Any) -> None:
    """Gives a nested dict the value at `path` where it has none."""
    name, *rest = path
    if not rest:
        group.setdefault(name, value)
        return
    for entry in group.values() if name == '*' else [group[name]] if name in group else []:
        _add(entry, rest, value)


def diff(old: Mapping | ConfigDict, new: Mapping | ConfigDict) -> list[str]:
    """One line per leaf that differs: `key: old -> new`."""
    a, b = dict(flatten(to_dict(old))), dict(flatten(to_dict(new)))
    keys = [*a, *(k for k in b if k not in a)]
    absent = '(absent)'
    return [
        f'{k}: {a.get(k, absent)!r} -> {b.get(k, absent)!r}'
        for k in keys
        if a.get(k, absent) != b.get(k, absent)
    ]


def cache_dir() -> pathlib.Path:
    """Where prepared data and compiled programs are kept: $XDG_CACHE_HOME/bigmodel."""
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(base) / 'bigmodel'


def load_module(path: str) -> types.ModuleType:
    """Runs a file of experiments/ and returns its module; raises UserError when it cannot."""
    file = pathlib.Path(path)
    if not file.is_file():
        siblings = [str(p) for p in file.parent.rglob('*.py')] if file.parent.is_dir() else []
        raise UserError(f'config file {path!r} does not exist.{nearest(path, siblings)}')
    spec = importlib.util.spec_from_file_location(f'experiments_{file.stem}', file)
    if spec is None or spec.loader is None:
        raise UserError(f'{path} is not a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        raise UserError(f'{path}, line {e.lineno}: {e.msg}') from e
    return module


def _read(text: str, current: Any, key: str) -> Any:
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {'true': True, 'false': False}.get(text.lower(), text)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if isinstance(current, int) and type(value) is float and value.is_integer():
        value = int(value)  # 1e6 is a handy way to write a number of steps
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(current):
        raise UserError(
            f'--config.{key}={text}: expected {type(current).__name__} (as in {current!r})'
        )
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict | dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _untuple(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _untuple(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_untuple(v) for v in value)
    return value
