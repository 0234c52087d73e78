"""Runs whose programs are the same: what may differ, and what may not."""

import jax
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.training.loop import _lower
from bigmodel.training.outline import resolve
from bigmodel.training.programs import GIVEN, GIVEN_TO_EVALUATIONS, Programs, program_of
from bigmodel.training.setup import another, build
from experiments import defaults

# Another value of every key that programs are given.
OTHER = {
    'name': 'other',
    'seed': 7,
    'num_steps': 33,
    'stop_early': 'validation/loss: patience=2',
    'log_every': 3,
    'check_finite': False,
    'sample': '',
    'data.cache_dir': '',
    'data.workers': 1,
    'optimizer.learning_rate': 0.5,
    'optimizer.weight_decay': 0.3,
    'optimizer.clip_norm': 0.0,
    'checkpoint.every': 5,
    'checkpoint.keep': 1,
    'checkpoint.keep_every': 5,
    'checkpoint.best': 'validation/loss',
    'schedule': 'wsd(warmup_steps=3, final=0.2)',
    'optimizer.name': 'adamw(b1=0.5, b2=0.6, eps=1e-5)',
    'optimizer.ema': 0.5,
}


@pytest.fixture(scope='module')
def config() -> config_lib.ConfigDict:
    c = defaults.get_config()
    c.data.source, c.data.seq_len, c.data.batch_size = 'copying', 16, 8
    c.model.depth, c.model.width, c.model.num_heads = 1, 16, 2
    c.optimizer.ema, c.schedule = 0.9, 'wsd(warmup_steps=9)'
    return c


def changed(config: config_lib.ConfigDict, changes: dict) -> config_lib.ConfigDict:
    c = config.copy_and_resolve_references()
    for key, value in changes.items():
        config_lib.override(c, key, value if isinstance(value, str) else repr(value))
    return resolve(c)


def test_numbers_do_not_change_the_program(config) -> None:
    assert set(GIVEN) <= set(OTHER)
    base, other = resolve(config), changed(config, OTHER)
    assert program_of(base) == program_of(other)
    texts = []
    for c in (base, other):
        setup = build(c)
        with setup.sharding.active():
            texts.append(_lower(setup).as_text())
    assert texts[0] == texts[1]


def test_keys_of_evaluations_do_not_change_the_program(config) -> None:
    changes = {'every': 7, 'batches': 3, 'scores': ('perplexity',), 'generate_rows': 3}
    changes |= {'max_tokens': 9}
    assert set(changes) == set(GIVEN_TO_EVALUATIONS)
    other = changed(config, {f'evals.validation.{key}': v for key, v in changes.items()})
    assert program_of(other) == program_of(resolve(config))


@pytest.mark.parametrize(
    'changes',
    [
        {'model.position': 'alibi'},
        {'model.dropout': 0.1},
        {'accumulate': 2},
        {'data.seq_len': 32},
        {'optimizer.ema': 0.0},
        {'optimizer.name': 'lion'},
        {'schedule': 'linear'},
        {'task': 'causal_lm(z_loss=1e-4)'},
        {'optimizer.decay': (('.*', 1.0),)},
    ],
)
def test_what_changes_the_program(config, changes) -> None:
    assert program_of(changed(config, changes)) != program_of(resolve(config))


def test_another_run_has_its_own_numbers_and_data(config) -> None:
    first = build(resolve(config))
    other = changed(config, {'seed': 3, 'optimizer.learning_rate': 0.25})
    shared, alone = another(first, other), build(other)
    assert shared.programs is first.programs and shared.model is first.model
    assert alone.programs is not first.programs
    jax.tree.map(np.testing.assert_array_equal, shared.hparams, alone.hparams)
    for key, rows in alone.data.batches(5).items():
        np.testing.assert_array_equal(shared.data.batches(5)[key], rows)
    assert not np.array_equal(first.data.batches(5)['tokens'], shared.data.batches(5)['tokens'])


def test_a_program_is_made_once() -> None:
    programs, made = Programs(), []
    for _ in range(2):
        assert programs.once('step', lambda: made.append(1) or len(made)) == 1
    assert programs.once('judge', lambda: 5) == 5 and made == [1]
