"""Runs in one program: none touches another, nothing is communicated, and they can be resumed."""

import os
import pathlib
import re
import signal
from typing import Any

import pytest

from bigmodel.config import ConfigDict
from bigmodel.sweeps.preflight import Builder
from bigmodel.training.gang import Gang
from bigmodel.training.outline import resolve
from bigmodel.training.rundir import RunDir
from bigmodel.training.running import never
from bigmodel.training.signals import Interrupted
from bigmodel.training.together import Member, train_together
from bigmodel.training.writers import read_jsonl
from experiments import defaults


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp('text') / 'text.txt'
    path.write_text('the quick brown fox jumps over the lazy dog. ' * 200)
    return str(path)


def config(text: str, seed: int, **changes: Any) -> ConfigDict:
    c = defaults.get_config()
    c.data.source, c.data.path, c.data.seq_len, c.data.batch_size = 'text', text, 16, 8
    c.model.depth, c.model.width, c.model.num_heads, c.model.dropout = 1, 16, 2, 0.1
    c.name, c.seed, c.num_steps, c.log_every = f'run{seed}', seed, 4, 1
    c.schedule = 'cosine(warmup_steps=2)'
    c.evals.validation.every, c.evals.validation.batches = 2, 1
    c.checkpoint.every = 1
    c.update_from_flattened_dict(changes)
    return resolve(c)


def losses(run: RunDir) -> list[tuple[str, int, float]]:
    return [(r['split'], r['step'], r['loss']) for r in read_jsonl(run.metrics)]


def trained(
    folder: pathlib.Path, configs: list[ConfigDict], builder: Builder
) -> tuple[list[RunDir], list[Any]]:
    runs = [RunDir(folder / c.name) for c in configs]
    told: list[Any] = [None] * len(configs)
    members = [
        Member(builder(c), run, lambda outcome, i=i: told.__setitem__(i, outcome))
        for i, (c, run) in enumerate(zip(configs, runs, strict=True))
    ]
    train_together(members)
    return runs, told


def test_a_run_that_diverges_changes_no_bit_of_the_others(text, tmp_path) -> None:
    lost = {'optimizer.learning_rate': 1e38, 'optimizer.clip_norm': 0.0}
    good, short = config(text, 1), config(text, 2, num_steps=3)
    builder = Builder()
    runs, told = trained(tmp_path / 'a', [good, config(text, 0, **lost), short], builder)
    assert 'the loss is nan' in str(told[1]) and not runs[1].result.exists()
    assert told[0]['steps'] == 4 and told[2]['steps'] == 3 and told[0]['together'] == 3
    others, _ = trained(tmp_path / 'b', [good, config(text, 0), short], builder)
    assert losses(runs[0]) == losses(others[0]) and losses(runs[2]) == losses(others[2])


def test_a_signal_saves_all_and_each_goes_on_where_it_was(text, tmp_path) -> None:
    configs, builder = [config(text, seed) for seed in (0, 1, 2)], Builder()
    whole, _ = trained(tmp_path / 'whole', configs, builder)

    def signalled(run: RunDir) -> str:
        if any(split == 'validation' for split, *_ in losses(run)):
            os.kill(os.getpid(), signal.SIGTERM)
        return ''

    told: list[Any] = []
    cut = [RunDir(tmp_path / 'cut' / c.name) for c in configs[:2]]
    members = [
        Member(builder(c), run, told.append, reason)
        for c, run, reason in zip(configs[:2], cut, (signalled, never), strict=True)
    ]
    with pytest.raises(Interrupted, match='SIGTERM after step 3'):
        train_together(members)
    assert not told and all((run.checkpoints / '3').exists() for run in cut)

    resumed, told = trained(tmp_path / 'cut', configs, builder)  # and one from its beginning
    assert [outcome['steps'] for outcome in told] == [4, 4, 4]
    assert [outcome['goodput']['restarts'] for outcome in told] == [1, 1, 0]
    assert all(outcome['goodput']['lost_steps'] == 0 for outcome in told)  # all were saved
    for run, same in zip(resumed, whole, strict=True):
        assert losses(run) == losses(same)


def test_nothing_is_communicated_between_them(text) -> None:
    builder = Builder()
    setups = [builder(config(text, seed)) for seed in (0, 1)]
    gang = Gang(setups)
    assert len(gang.setups) == setups[0].sharding.mesh.size == 8
    with setups[0].sharding.active():
        states = gang.states([setup.initial_state() for setup in setups])
        text_of = gang.compiled(states).as_text()
    found = re.findall(
        r'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter', text_of
    )
    assert not found
