"""What the README shows is true."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel.commands.main import COMMANDS
from bigmodel.layers import biases, positions
from bigmodel.layers.coordinates import Coordinates
from bigmodel.models.build import SLOTS
from bigmodel.models.model import apply
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.schedules import SCHEDULES
from experiments import defaults
from tests.small import VOCAB, random_params, small_model

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(b for b in BLOCKS if 'class Power' in b)
    names = {**vars(biases), 'POSITIONS': positions.POSITIONS}
    exec(code, names)  # the table that it writes to is the real one
    table = names['POSITIONS']
    monkeypatch.setattr(positions, 'POSITIONS', table)
    yield
    del table['power']


def test_the_encoding_shown_is_the_formula_and_reaches_every_model(power):
    model = small_model(position='power')
    params = random_params(model)
    bias = positions.POSITIONS['power']()
    raw = params['backbone']['position']
    here = Coordinates.of(6)
    got = nn.apply(lambda m: m.bias(4)(here, here), bias)({'params': raw})
    a, p = np.log1p(np.exp(raw['a'])), 2 / (1 + np.exp(-raw['p']))
    want = [[[-a[h] * abs(i - j) ** p[h] for j in range(6)] for i in range(6)] for h in range(4)]
    np.testing.assert_allclose(got[0], want, rtol=1e-5)
    tokens = jax.random.randint(jax.random.key(0), (1, 8), 0, VOCAB)
    run = jax.jit(jax.value_and_grad(lambda p: apply(model, p, tokens).std()))
    loss, grads = run(params)
    assert all(np.isfinite(g).all() and np.any(g) for g in grads['backbone']['position'].values())
    shifted = jax.tree.map(lambda x: x, params)
    shifted['backbone']['position']['a'] = raw['a'] + 1
    assert not jnp.allclose(loss, run(shifted)[0])


def test_the_run_card_shown_is_a_config():
    code = next(b for b in BLOCKS if 'def get_config' in b)
    names: dict = {}
    exec(code, names)
    config = names['get_config']()
    assert config.model.position == 'alibi'
    assert set(config) == set(defaults.get_config())


def test_every_choice_and_command_is_named():
    tables = [SLOTS[s] for s in ('position', 'mask', 'mixer', 'ffn', 'norm', 'block', 'head')]
    for name in [n for t in (*tables, OPTIMIZERS, SCHEDULES, COMMANDS) for n in t]:
        assert f'`{name}' in README, name


def test_every_file_of_the_reading_order_exists():
    root = pathlib.Path(__file__).parents[1]
    order = README[README.index('## Reading order') : README.index('Imports point')]
    files = re.findall(r'`([\w/]+\.py)`', order)
    assert len(files) >= 10
    lines = sum(len((root / f).read_text().splitlines()) for f in files)
    assert all((root / f).is_file() for f in files)
    assert lines <= 1500
