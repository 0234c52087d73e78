"""Sweep files over a small text."""

import pathlib
import textwrap
from collections.abc import Callable

import pytest

BASE = """
'''Does anything help? It is small.

More words.
'''

from bigmodel.sweeps.arms import (
    Search,
    Sweep,
    chain,
    choice,
    cross,
    grid,
    integer,
    log_uniform,
    sample,
    uniform,
    zipped,
)
from experiments import defaults


def get_config(arg=''):
    c = defaults.get_config()
    c.data.source, c.data.path = 'text', {text!r}
    c.data.seq_len, c.data.batch_size = 16, 8
    c.model.depth, c.model.width, c.model.num_heads = 1, 16, 2
    c.num_steps, c.log_every = 4, 1
    c.schedule = 'cosine(warmup_steps=2)'
    c.evals.validation.every, c.evals.validation.batches = 2, 1
    return c


def sweep():
    return {sweep}
"""


@pytest.fixture(scope='session')
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp('text') / 'text.txt'
    path.write_text('the quick brown fox jumps over the lazy dog. ' * 400)
    return str(path)


@pytest.fixture
def write(tmp_path: pathlib.Path, text: str) -> Callable[[str], str]:
    """Writes a sweep file whose `sweep()` returns the expression, and returns its path."""

    def write(sweep: str) -> str:
        path = tmp_path / 'some.py'
        path.write_text(textwrap.dedent(BASE).format(text=text, sweep=sweep).lstrip())
        return str(path)

    return write
