"""Configs and prepared data for the tests of the data layer."""

import pathlib
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

DEFAULTS = {
    'source': 'text',
    'mixture': (),
    'path': '',
    'format': 'text',
    'tokenizer': 'bytes',
    'packing': 'stream',
    'seq_len': 16,
    'batch_size': 4,
    'workers': 1,
}


@pytest.fixture(autouse=True)
def private_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """No test sees the user's cache or TFDS folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
    return tmp_path / 'xdg' / 'bigmodel'


@pytest.fixture
def make_config(tmp_path: pathlib.Path) -> Callable[..., ConfigDict]:
    """Builds a `config.data` group whose cache is the test's own."""
    return lambda **keys: ConfigDict({**DEFAULTS, 'cache_dir': str(tmp_path / 'cache'), **keys})


@pytest.fixture(scope='session')
def stdlib_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for every test that reads pystdlib: it is prepared once."""
    return str(tmp_path_factory.mktemp('stdlib'))


@pytest.fixture
def stdlib_config(make_config: Callable[..., ConfigDict], stdlib_cache: str) -> ConfigDict:
    """The embedded data set as bytes."""
    return make_config(source='pystdlib', cache_dir=stdlib_cache)


@pytest.fixture
def texts(tmp_path: pathlib.Path) -> pathlib.Path:
    """Twenty small files of different lengths, with non-ASCII characters."""
    folder = tmp_path / 'texts'
    folder.mkdir()
    for i in range(20):
        (folder / f'{i:02d}.txt').write_text(f'été {i}\n' * (i * i % 7 + 1), encoding='utf-8')
    return folder
