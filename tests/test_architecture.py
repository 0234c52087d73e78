"""The layering of the package, read from its imports; habits that grep can hold."""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import pytest
from flax import linen as nn
from jaxtyping import TypeCheckError

from bigmodel.layers.linear import Linear
from bigmodel.layers.masks import Causal
from bigmodel.models.build import SLOTS
from bigmodel.tasks.build import TASKS
from bigmodel.tasks.losses import cross_entropy
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.schedules import SCHEDULES

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'bigmodel'
FILES = sorted(PACKAGE.rglob('*.py'))
# Modules at the top are level 0. A package may import lower levels and itself; a new package needs
# a line here.
LEVELS = {
    '': 0,
    'layers': 1,
    'scores': 1,
    'models': 2,
    'data': 2,
    'tasks': 3,
    'training': 4,
    'inference': 5,
    'planning': 5,
    'sweeps': 6,
    'launching': 7,
    'reports': 7,
    'laws': 8,
    'commands': 9,
}
LEVEL_ZERO = {'config', 'devices', 'errors', 'metrics', 'params', 'peaks', 'quantities'}
LEVEL_ZERO |= {'hosts', 'joining', 'meshes', 'pipelines', 'rings', 'rules', 'sharding', 'specs'}
LEVEL_ZERO |= {'gathering', 'stages', 'watch'}


def package(parts: tuple[str, ...]) -> str:
    """'layers' of bigmodel.layers.masks, '' of bigmodel.specs."""
    return parts[1] if len(parts) > 1 and parts[1] in LEVELS else ''


@functools.cache
def tree(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: pathlib.Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """(module as a tuple of names, imported name or '') for every import, also inside functions."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((tuple(alias.name.split('.')), '') for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{file}: relative import'
            module = tuple((node.module or '').split('.'))
            for alias in node.names:
                submodule = PACKAGE.parent.joinpath(*module, alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix('.py').is_file()
                yield ((*module, alias.name), '') if is_module else (module, alias.name)


def name(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def files(*packages: str) -> list[pathlib.Path]:
    return [f for f in FILES if name(f).split('/')[0] in packages and '/' in name(f)]


def uses(file: pathlib.Path, *libraries: str) -> set[str]:
    return {module[0] for module, _ in imports(file)} & set(libraries)


def test_every_package_has_a_level() -> None:
    packages = {f.relative_to(PACKAGE).parts[0] for f in FILES if f.parent != PACKAGE}
    assert packages <= set(LEVELS)
    top = {f.stem for f in FILES if f.parent == PACKAGE} - {'__init__'}
    assert top <= LEVEL_ZERO


@pytest.mark.parametrize('file', FILES, ids=name)
def test_imports_point_downwards(file: pathlib.Path) -> None:
    here = package(('bigmodel', *file.relative_to(PACKAGE).parts))
    for module, _ in imports(file):
        if module[0] == 'bigmodel' and len(module) > 1:
            there = package(module)
            below = LEVELS[there] < LEVELS[here] or there == here
            assert below, f'{name(file)} imports {".".join(module)}'


@pytest.mark.parametrize('file', FILES, ids=name)
def test_nothing_imports_experiments_tests_or_commands_scripts(file: pathlib.Path) -> None:
    assert not uses(file, 'experiments', 'tests', 'launch')


@pytest.mark.parametrize('file', files('layers'), ids=name)
def test_layers_know_no_config_and_no_mesh(file: pathlib.Path) -> None:
    for module, imported in imports(file):
        assert module[:2] not in (('bigmodel', 'config'), ('jax', 'sharding')), module
        assert module[0] != 'ml_collections'
        if module[:2] in [('bigmodel', name) for name in ('rings', 'sharding', 'stages')]:
            allowed = ('constrain', 'by_rows', 'by_shard', 'into_branch', 'from_branch')
            allowed += ('Ring', 'exchange', 'mean_over_rows', 'on_ring', 'ring')
            assert imported in allowed, f'layers may name axes, not {imported!r}'


@pytest.mark.parametrize('file', files('data'), ids=name)
def test_data_needs_no_jax_and_never_sees_models(file: pathlib.Path) -> None:
    assert not uses(file, 'jax', 'flax', 'optax', 'orbax')


@pytest.mark.parametrize('file', files('layers', 'models', 'data', 'tasks'), ids=name)
def test_optimizers_are_known_to_training_alone(file: pathlib.Path) -> None:
    assert not uses(file, 'optax', 'orbax')


def test_optax_and_orbax_are_imported_in_their_places_alone() -> None:
    optax = ['training/directions.py', 'training/optimizers.py']
    assert [name(f) for f in FILES if uses(f, 'optax')] == optax
    assert [name(f) for f in FILES if uses(f, 'orbax')] == ['training/checkpoints.py']


def test_linens_init_and_apply_are_called_in_the_model_alone() -> None:
    """After `init`, parameters are plain dicts; everything else calls models/model.py, but the
    backbone has its layers go through a pipeline.
    """
    places = ('models/backbone.py', 'models/model.py')
    for file in FILES:
        for node in ast.walk(tree(file)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            receiver = ast.unparse(node.func.value).split('.')[-1]
            of_linen = node.func.attr == 'apply' or (
                node.func.attr == 'init' and receiver in ('model', 'module', 'rolled', 'nn')
            )
            assert not of_linen or name(file) in places, f'{name(file)}:{node.lineno}'


@pytest.mark.parametrize('file', FILES, ids=name)
def test_config_keys_are_never_optional(file: pathlib.Path) -> None:
    """Every key is in defaults.py, so a default anywhere else is a second truth."""
    text = file.read_text()
    assert not re.search(r'\bconfig(\.\w+)*\.get\(', text)
    assert not re.search(r'\bgetattr\(config', text)


@pytest.mark.parametrize('file', FILES, ids=name)
def test_files_are_named_after_what_they_hold(file: pathlib.Path) -> None:
    assert file.stem not in ('utils', 'util', 'common', 'helpers', 'misc')
    assert not file.stem.endswith('_lib')


@pytest.mark.parametrize('file', FILES, ids=name)
def test_nothing_is_evaluated(file: pathlib.Path) -> None:
    """Specs and overrides are literals."""
    called = {
        node.func.id
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {'eval', 'exec', 'compile', '__import__'}


TABLES: dict[str, Any] = {
    **{slot: table for slot, table in SLOTS.items() if slot != 'activation'},
    'task': TASKS,
    'optimizer': OPTIMIZERS,
    'schedule': SCHEDULES,
}


@pytest.mark.parametrize('slot', TABLES)
def test_every_part_says_what_it_is(slot: str) -> None:
    for part_name, part in TABLES[slot].items():
        own = part.__dict__.get('__doc__') if isinstance(part, type) else part.__doc__
        assert own and not own.startswith(f'{part.__name__}('), part_name


def test_shapes_in_signatures_are_held_while_tests_run() -> None:
    """Functions, dataclasses and linen modules alike: the import hook of conftest.py is on."""
    with pytest.raises(TypeCheckError):
        cross_entropy(jnp.ones((2, 3, 7)), jnp.ones((2, 4), int))
    with pytest.raises(TypeCheckError):
        Causal()(jnp.ones(3), jnp.ones(3))
    with pytest.raises(TypeCheckError):
        Linear((3,), ('embed',), 'mlp')
    module = Linear((3,), ('embed',), ('mlp',))
    with pytest.raises(TypeCheckError):
        nn.apply(lambda m, x: m(x), module)({}, jnp.ones((2, 3), int))
