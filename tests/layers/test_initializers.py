"""muP: the standard one at its base width, and steps whose size the width leaves alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import params as params_lib
from bigmodel.layers.initializers import INITS
from bigmodel.layers.mixers import MIXERS
from bigmodel.models.build import build_model
from bigmodel.models.model import apply, init_params
from bigmodel.specs import make
from bigmodel.tasks.build import build_task
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import State, abstract_params
from bigmodel.training.step import make_train_step
from tests.small import VOCAB, quick_jit, random_tokens, small_config

LENGTH = 12


def test_mup_is_fan_in_at_its_base_width() -> None:
    mup = make(INITS, 'mup(base_width=64)', 'init', depth=4, width=64)
    plain = make(INITS, 'fan_in', 'init', depth=4)
    for role in ('embed', 'linear', 'residual'):
        assert mup(role, 96) == plain(role, 96)
    assert mup('head', 64) == plain('head', 64)
    assert mup.logit_scale == 1 and all(rate == 1 for _, rate in mup.rates)


def test_mup_scales_as_table_8_says() -> None:
    """Four times the base width: Adam's rows of Yang et al. 2022, table 8."""
    one, four = (make(INITS, 'mup(base_width=64)', 'init', depth=1, width=w) for w in (64, 256))
    assert four('linear', 256) == one('linear', 64) / 2  # variance 1/fan_in
    assert four('embed', 256) == one('embed', 64)
    assert four('head', 256) == one('head', 64)  # variance 1, multiplier 1/fan_in
    assert four.logit_scale == 1 / 4
    model = small_config(LENGTH, width=256, head_dim=4, init='mup(base_width=64)').model
    boxed = abstract_params(build_model(model, VOCAB, 0, 'cpu'))
    config = small_config(LENGTH, width=256, head_dim=4, init='mup(base_width=64)')
    rates = params_lib.flatten(build_optimizer(config, boxed)[0].rate)
    assert rates['backbone/layers/block_0/mixer/q/weight'] == 1 / 4
    assert rates['backbone/layers/block_0/ffn_norm/scale'] == rates['inputs/tokens/table'] == 1


def test_mup_counts_all_matrices_between_embedding_and_logits_as_hidden() -> None:
    shape = {'width': 256, 'head_dim': 4, 'encoder_depth': 2, 'cross': 'attention', 'head': 'mlm'}
    config = small_config(LENGTH, **shape, ahead='mtp', init='mup(base_width=64)')
    boxed = abstract_params(build_model(config.model, VOCAB, 0, 'cpu'))
    rates = params_lib.flatten(build_optimizer(config, boxed)[0].rate)
    hidden = {path for path, rate in rates.items() if rate == 1 / 4}
    assert hidden == {path for path in rates if path.endswith('weight')}


GROWING = {
    **{name: {'mixer': name, 'position': 'none'} for name in MIXERS},
    'mla': {'mixer': 'mla(rank=8, q_rank=8, rope_dim=4)'},
    'moe': {'ffn': 'moe(experts=4, top_k=1, shared=1)'},
    'encoder': {'encoder_depth': 2, 'cross': 'attention'},
    'tied': {'head': 'lm(tied=True)'},
}


@pytest.mark.parametrize('part', GROWING)
def test_rates_fall_as_variances_do(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For Adam, table 8 gives each weight's rate and variance the same power of the width."""
    monkeypatch.setattr(nn.initializers, 'normal', nn.initializers.constant)  # shows the std

    def build(width: int) -> tuple[dict[str, float], dict[str, float]]:
        heads = {'num_heads': width // 8, 'num_kv_heads': width // 8, 'head_dim': 8}
        slots = {'init': 'mup(base_width=96)', 'head': 'lm(tied=False)'} | GROWING[part]
        config = small_config(LENGTH, width=width, **heads, **slots)
        model = build_model(config.model, VOCAB, 0, 'cpu')
        rates = build_optimizer(config, abstract_params(model))[0].rate
        params = nn.unbox(quick_jit(lambda: init_params(model, jax.random.key(0)))())
        return params_lib.flatten(params), params_lib.flatten(rates)

    (narrow, narrow_rates), (wide, wide_rates) = (
        build(96),
        build(384),
    )  # the hidden widths grow alike
    weights = [path for path in wide if path.endswith(('/weight', '/table'))]
    assert {wide_rates[path] for path in weights} == {1, 1 / 4}
    assert {wide_rates[path] for path in wide} - {1} == {1 / 4}
    for path in weights:
        stds = float(jnp.max(wide[path])) / float(jnp.max(narrow[path]))
        assert wide_rates[path] / narrow_rates[path] == pytest.approx(stds**2, rel=1e-5), path


@functools.cache
def moved(init: str, width: int) -> float:
    """RMS change of the logits by five Adam steps at the same learning rate (coordinate check)."""
    config = small_config(
        LENGTH,
        width=width,
        num_heads=width // 8,
        num_kv_heads=width // 8,
        head_dim=8,
        init=init,
        head='lm(tied=False)',
        ffn='mlp',
        position='rope',
    )
    config.schedule, config.optimizer.learning_rate = 'constant', 1e-2
    model = build_model(config.model, VOCAB, 0, 'cpu')
    optimizer, hparams = build_optimizer(config, abstract_params(model))
    params = nn.unbox(quick_jit(lambda: init_params(model, jax.random.key(0)))())
    tokens = random_tokens(8, LENGTH + 1)
    batch = {'tokens': jnp.asarray(tokens)}
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params, hparams))
    step = quick_jit(make_train_step(model, build_task('causal_lm'), optimizer, 1))
    logits = quick_jit(lambda p: apply(model, p, batch['tokens'][:, :-1]))
    before: Any = logits(params)
    for _ in range(5):
        state, _ = step(state, batch, hparams)
    return float(jnp.sqrt(jnp.mean((logits(state.params) - before) ** 2)))


@pytest.mark.parametrize('width', [64, 256])
def test_under_mup_steps_do_not_grow_with_the_width(width: int) -> None:
    """Widths 32 to 256; the standard parametrisation's steps grow, which is what muP is for."""
    assert 0.5 < moved('mup(base_width=32)', width) / moved('mup(base_width=32)', 32) < 1.5
    # Measured at widths 32 to 256: 1.52, 1.32, 1.17, 1.06 with muP, 1.52, 1.77, 2.09, 2.45 without.
    assert width < 256 or moved('fan_in', width) / moved('fan_in', 32) > 1.5
    np.testing.assert_allclose(moved('mup(base_width=32)', 32), moved('fan_in', 32), rtol=1e-5)
