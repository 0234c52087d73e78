"""Imports point downwards, and the rules that keep the tree readable hold."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'bigmodel').rglob('*.py'))

# What each part may import of bigmodel, beside itself.
BASE = {'errors', 'specs', 'config', 'sharding', 'metrics', 'params', 'devices'}
LAYERS = {'errors', 'specs', 'sharding'}
ALLOWED = {
    'layers': LAYERS,
    'models': BASE | {'layers'},
    'data': {'errors', 'specs', 'config'},
    'tasks': {'errors', 'specs', 'metrics'},
    'training': BASE | {'layers', 'models', 'data', 'tasks'},
    'inference': BASE | {'layers', 'models', 'data', 'training'},
    'commands': BASE | {'models', 'data', 'tasks', 'training', 'inference'},
}
FORBIDDEN = {  # packages that a part must not know
    'data': {'jax', 'flax', 'optax', 'orbax'},
    'layers': {'ml_collections', 'optax', 'orbax'},
    'models': {'optax', 'orbax'},
    'tasks': {'optax', 'orbax', 'flax', 'ml_collections'},
}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f'{node.module}.{a.name}' for a in node.names}
    return found


def part_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT / 'bigmodel').parts
    return parts[0] if len(parts) > 1 else path.stem


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', FILES, ids=name)
def test_imports_point_downwards(path):
    part = part_of(path)
    allowed = ALLOWED.get(part, BASE) | {part}
    for module in imports(path):
        parts = module.split('.')
        assert parts[0] != 'experiments'
        assert parts[0] not in FORBIDDEN.get(part, ())
        if parts[0] == 'bigmodel' and len(parts) > 1:
            assert parts[1] in allowed, f'{name(path)} imports {module}'


def test_layers_never_touch_a_mesh_or_a_config():
    for path in (ROOT / 'bigmodel' / 'layers').glob('*.py'):
        text = path.read_text()
        assert 'ConfigDict' not in text and 'Mesh' not in text and 'jax.sharding' not in text


def calls(path: pathlib.Path) -> list[ast.Call]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]


def test_no_default_hides_outside_defaults_py():
    for path in FILES:
        for call in calls(path):
            function = ast.unparse(call.func)
            assert not function.endswith(('config.get', 'model.get')), name(path)


def test_linen_is_entered_in_one_file():
    """`init` and `apply` of a model; everything else works on plain parameter trees."""
    for path in FILES:
        methods = {ast.unparse(c.func) for c in calls(path)}
        if path.name != 'model.py':
            assert not methods & {'model.apply', 'model.init', 'setup.model.apply'}, name(path)


def test_no_file_is_a_drawer():
    for path in FILES:
        assert path.stem not in ('utils', 'util', 'common', 'helpers', 'misc')
        assert not path.stem.endswith('_lib')
        assert len(path.read_text().splitlines()) <= 320, name(path)
