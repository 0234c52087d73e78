"""Runs on a small text of their own, as subprocesses where signals and exit codes matter."""

import os
import pathlib
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='session')
def text_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """60 kB of words, always the same."""
    rng = random.Random(0)
    words = [''.join(rng.choices('abcdefgh', k=rng.randint(2, 7))) for _ in range(60)]
    text = ' '.join(rng.choice(words) for _ in range(12_000))
    path = tmp_path_factory.mktemp('text') / 'words.txt'
    path.write_text(text)
    return path


@pytest.fixture(scope='session')
def small_args(text_file: pathlib.Path) -> list[str]:
    """Overrides that make any run card small enough for a test, on that text."""
    changes = {
        'data.source': 'text',
        'data.path': str(text_file),
        'data.tokenizer': 'bytes',
        'data.seq_len': 32,
        'data.batch_size': 8,
        'data.workers': 1,
        'model.depth': 2,
        'model.width': 32,
        'model.num_heads': 4,
        'model.num_kv_heads': 2,
        'sharding.host_devices': 2,
        'schedule': 'cosine(warmup_steps=5)',
        'evals.validation.every': 20,
        'evals.validation.batches': 3,
        'log_every': 1,
        'sample': '',
    }
    return [f'--config.{key}={value}' for key, value in changes.items()]


@pytest.fixture(scope='session')
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache of data and programs for all subprocesses of the session."""
    return os.environ | {'XDG_CACHE_HOME': str(tmp_path_factory.mktemp('cache'))}


@pytest.fixture(scope='session')
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen]:
    """Starts `launch.py` with arguments."""

    def start(*args: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, 'launch.py', *args],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.fixture(scope='session')
def launch(start: Callable[..., subprocess.Popen]) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `launch.py` to its end, within two minutes."""

    def launch(*args: str, expect: int = 0) -> subprocess.CompletedProcess:
        process = start(*args)
        out, err = process.communicate(timeout=120)
        assert process.returncode == expect, f'{args}\n{out}\n{err}'
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    return launch
