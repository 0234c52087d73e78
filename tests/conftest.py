"""Eight virtual devices, shapes checked at run time, and caches that belong to the test run."""

import gc
import os
import pathlib
from collections.abc import Iterator

# XLA reads these once, when it is loaded; processes that tests start inherit them. What a program
# computes is tested, not how fast. `exact_jit` of tests/small.py compiles as usual.
QUICK_FLAGS = (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
)
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *QUICK_FLAGS]).strip()

# ruff: noqa: E402
import jax
import pytest
from jaxtyping import install_import_hook

# Before anything computes: the number of devices is fixed when the backend comes up.
jax.config.update('jax_num_cpu_devices', 8)

# Every signature of the package is held by beartype from here on; bigmodel must not be loaded yet.
install_import_hook('bigmodel', 'beartype.beartype')


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs beside pytest's own cache, so that a second run compiles little."""
    cache = getattr(config, 'cache', None)
    if cache is None:
        return
    jax.config.update('jax_compilation_cache_dir', str(cache.mkdir('xla')))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture(scope='session', autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """No test reads or writes the user's own cache."""
    before = os.environ.get('XDG_CACHE_HOME')
    folder = tmp_path_factory.mktemp('xdg')
    os.environ['XDG_CACHE_HOME'] = str(folder)
    yield folder
    if before is None:
        del os.environ['XDG_CACHE_HOME']
    else:
        os.environ['XDG_CACHE_HOME'] = before


@pytest.fixture(scope='module', autouse=True)
def _forget_programs() -> Iterator[None]:
    """A process may hold 65,530 memory maps, and each compiled program holds several: without this
    the suite comes to that limit, where XLA dies of a segmentation fault.
    """
    yield
    jax.clear_caches()
    gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden` writes golden files anew instead of only comparing."""
    parser.addoption('--golden', action='store_true', help='write golden files anew')
