"""A small text, a finished run on it, and the arguments that make one."""

import pathlib

import jax
import pytest

from bigmodel.commands.main import main

jax.devices()  # all eight, before a command chooses fewer
ROOT = pathlib.Path(__file__).parents[2]
CARD = str(ROOT / 'experiments' / 'quickstart.py')


@pytest.fixture(scope='session')
def text(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('text') / 'text.txt'
    path.write_text('the quick brown fox jumps over the lazy dog. ' * 400)
    return path


@pytest.fixture(scope='session')
def finished_run(text, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / 'run'
    assert main(['train', *base(text), f'--workdir={run}']) == 0
    return run


def base(text: pathlib.Path) -> list[str]:
    changes = {
        'data.source': 'text',
        'data.path': text,
        'data.seq_len': 16,
        'data.batch_size': 8,
        'model.depth': 2,
        'model.width': 16,
        'model.num_heads': 2,
        'num_steps': 2,
        'evals.validation.batches': 1,
        'sample': '',
    }
    return [f'--config={CARD}', *(f'--config.{k}={v}' for k, v in changes.items())]
