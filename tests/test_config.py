"""Config files, overrides with types, JSON round trips, differences."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from bigmodel import config as config_lib
from bigmodel.errors import UserError
from experiments import defaults


def write(folder: pathlib.Path, text: str) -> str:
    path = folder / 'card.py'
    path.write_text(text)
    return str(path)


CARD = """
from experiments import defaults

def get_config(arg=''):
    c = defaults.get_config()
    c.num_steps = 7
    c.name = arg
    return c
"""


@pytest.mark.parametrize(
    ('key', 'text', 'value'),
    [
        ('seed', '3', 3),
        ('num_steps', '1e6', 1_000_000),
        ('num_steps', '1_000', 1000),
        ('name', '3', '3'),
        ('name', '', ''),
        ('model.position', 'rope(theta=5e5)', 'rope(theta=5e5)'),
        ('optimizer.learning_rate', '1', 1.0),
        ('optimizer.learning_rate', '3e-4', 3e-4),
        ('check_finite', 'false', False),
        ('check_finite', 'True', True),
        ('model.pattern', "('window(2)', 'causal')", ('window(2)', 'causal')),
        ('model.pattern', "['causal']", ('causal',)),
        ('optimizer.train', "[('a', True), ('.*', False)]", (('a', True), ('.*', False))),
        ('evals.validation.every', '5', 5),
    ],
)
def test_override_reads_text_as_the_keys_type(key: str, text: str, value: Any) -> None:
    config = defaults.get_config()
    config_lib.override(config, key, text)
    got = dict(config_lib.flatten(config))[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ('key', 'text', 'message'),
    [
        (
            'model.positon',
            'rope',
            "unknown config key 'model.positon'. Did you mean 'model.position'",
        ),
        ('learning_rate', '1', "Did you mean 'optimizer.learning_rate'"),
        ('model', '{}', '--config.model is a group; set one of: model.'),
        ('seed', 'x', '--config.seed=x: expected int'),
        ('seed', '0.5', '--config.seed=0.5: expected int'),
        ('seed', 'True', '--config.seed=True: expected int'),
        ('optimizer.learning_rate', 'fast', 'expected float .as in 0.001.'),
        ('check_finite', '1', 'expected bool'),
        ('model.pattern', 'causal', 'expected tuple'),
        ('model.pattern', '__import__("os")', 'expected tuple'),
    ],
)
def test_override_refuses_unknown_keys_and_wrong_types(key: str, text: str, message: str) -> None:
    config = defaults.get_config()
    before = config_lib.to_json(config)
    with pytest.raises(UserError, match=message):
        config_lib.override(config, key, text)
    assert config_lib.to_json(config) == before


def test_load_runs_the_file_with_its_argument_and_overrides(tmp_path: pathlib.Path) -> None:
    config = config_lib.load(write(tmp_path, CARD) + ':arm', [('seed', '5')])
    assert (config.num_steps, config.name, config.seed) == (7, 'arm', 5)


def test_load_takes_files_without_an_argument(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, CARD.replace("arg=''", '').replace('= arg', "= 'x'"))
    assert config_lib.load(path).name == 'x'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (CARD.replace('num_steps = 7', 'nun_steps = 7'), 'nun_steps'),
        (CARD.replace('num_steps = 7', "num_steps = 'many'"), 'card.py: .*num_steps'),
        (CARD.replace('get_config(arg', 'config(arg'), 'does not define get_config'),
        ('def get_config(:', 'card.py, line 1: '),
    ],
)
def test_load_says_what_is_wrong_with_a_file(
    tmp_path: pathlib.Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as e:
        config_lib.load(write(tmp_path, text))
    assert '\n' not in str(e.value)


def test_a_missing_file_names_the_nearest(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, CARD)
    with pytest.raises(UserError, match=r'does not exist. Did you mean .*card.py'):
        config_lib.load(path.replace('card', 'cart'))


def test_json_round_trip_keeps_values_and_types() -> None:
    config = defaults.get_config()
    config.model.pattern = ('window(2)', 'causal')
    again = config_lib.from_dict(config_lib.to_dict(config))
    assert dict(config_lib.flatten(again)) == dict(config_lib.flatten(config))
    assert config_lib.to_json(again) == config_lib.to_json(config)


def test_read_json_is_what_was_written(tmp_path: pathlib.Path) -> None:
    config = defaults.get_config()
    path = tmp_path / 'config.json'
    path.write_text(config_lib.to_json(config))
    read = config_lib.read_json(path)
    assert isinstance(read, ConfigDict)
    assert dict(config_lib.flatten(read)) == dict(config_lib.flatten(config))


@pytest.mark.parametrize('content', [b'', b'{"a": 1', b'\xff\xfe\x00', b'[1, 2]', b'3', b'null'])
def test_damaged_json_is_a_user_error(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / 'config.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'is damaged .*another --workdir'):
        config_lib.read_json(path)


def test_the_config_of_an_older_run_has_every_key_of_today() -> None:
    """The quickstart's of November 2026; a key that is new since needs a line of `ADDED`, and one
    that is gone a place in `REMOVED`."""
    older = pathlib.Path(__file__).parent / 'golden' / 'older_config.json'
    read = dict(config_lib.flatten(config_lib.read_json(older)))
    assert read.keys() == dict(config_lib.flatten(defaults.get_config())).keys()


def test_missing_json_is_not_a_run_directory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match='not a run directory'):
        config_lib.read_json(tmp_path / 'config.json')


def test_diff_lists_changed_and_absent_keys() -> None:
    old, new = defaults.get_config(), defaults.get_config()
    new.model.position = 'alibi'
    new.optimizer.learning_rate = 0.5
    with new.unlocked():
        del new.seed
        new.extra = 3
    assert config_lib.diff(old, new) == [
        "model.position: '' -> 'alibi'",
        'optimizer.learning_rate: 0.001 -> 0.5',
        "seed: 0 -> '(absent)'",
        "extra: '(absent)' -> 3",
    ]


def test_tuples_and_lists_do_not_differ() -> None:
    config = defaults.get_config()
    assert config_lib.diff(config, config_lib.from_dict(config_lib.to_dict(config))) == []
    assert config_lib.diff({'a': (1, (2,))}, {'a': [1, [2]]}) == []


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert config_lib.cache_dir() == pathlib.Path('/somewhere/bigmodel')
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert config_lib.cache_dir() == pathlib.Path.home() / '.cache' / 'bigmodel'


def test_defaults_are_locked_and_every_key_is_commented() -> None:
    with pytest.raises(AttributeError):
        defaults.get_config().sed = 1
    source = pathlib.Path(defaults.__file__).read_text().splitlines()
    uncommented = [
        line
        for line in source
        if line.startswith('    c.')
        and ' = ' in line
        and 'ConfigDict()' not in line
        and 'evaluation(' not in line
        and '#' not in line
    ]
    # The three regex lists share the comment above them.
    assert all(line.startswith('    c.optimizer.') for line in uncommented), uncommented
