"""Tasks that compare a model with another, or two responses: values and gradients of PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.tasks.build import build_task
from bigmodel.tasks.task import BoundModel
from tests.golden.values import golden_file

VALUES = golden_file('preference')
# Golden values are float64; sums of 11 float32 exponentials and of at most 5 tokens.
CLOSE = {'rtol': 2e-5, 'atol': 2e-6}


def pairs(garbage: int = 0) -> dict[str, jax.Array]:
    """The golden pairs; what is in their padding is no token of theirs."""
    n, two, length = VALUES['tokens'].shape
    inside = np.arange(length) < VALUES['lengths'][..., None]
    return {
        'tokens': jnp.asarray(np.where(inside, VALUES['tokens'], garbage)),
        'segments': jnp.asarray(inside.astype(np.int32)),
        'positions': jnp.asarray(np.broadcast_to(np.arange(length), (n, two, length))),
        'marks': jnp.asarray(VALUES['response']),
    }


def bound(policy: Any, reference: Any = None) -> BoundModel:
    """Models that say these logits whatever they read."""

    def says(logits: Any) -> Any:
        flat = jnp.asarray(logits).reshape(-1, *logits.shape[-2:])[:, :-1]
        return lambda *args: flat

    frozen = {} if reference is None else dict.fromkeys(('reference', 'teacher'), says(reference))
    return BoundModel(says(policy), frozen)


def each_pair(spec: str, policy: Any, batch: dict[str, jax.Array]) -> list[Metrics]:
    """The metrics of one pair at a time."""
    task, found = build_task(spec), []
    for i in range(len(policy)):
        alone = batch | {'valid': jnp.zeros(len(policy)).at[i].set(1)}
        found.append(task(bound(policy, VALUES['reference']), alone, None))
    return found


@pytest.mark.parametrize(
    ('spec', 'name'),
    [
        ('dpo', 'dpo/0.1'),
        ('dpo(beta=0.5)', 'dpo/0.5'),
        ('simpo', 'simpo/2.0/0.5'),
        ('simpo(beta=1.0, gamma=0.0)', 'simpo/1.0/0.0'),
    ],
)
def test_preference_losses_and_their_gradients_are_pytorchs(spec: str, name: str) -> None:
    found = each_pair(spec, VALUES['policy'], pairs())
    want = {k: VALUES[f'{name}/{k}'] for k in ('loss', 'margin', 'd_logits')}
    for key in ('loss', 'margin'):
        np.testing.assert_allclose([m[key].value() for m in found], want[key], **CLOSE)
    assert [m['accuracy'].value() for m in found] == list(want['margin'] > 0)
    assert {float(m['loss'].weight) for m in found} == {1.0}

    def total(policy: Any) -> jax.Array:
        return build_task(spec)(bound(policy, VALUES['reference']), pairs(), None)['loss'].total

    np.testing.assert_allclose(
        jax.grad(total)(jnp.asarray(VALUES['policy'])), want['d_logits'], **CLOSE
    )


@pytest.mark.parametrize(('weight', 'temperature'), [(0.5, 2.0), (1.0, 1.0), (0.2, 5.0)])
def test_distillation_and_its_gradient_are_pytorchs(weight: float, temperature: float) -> None:
    name, task = f'distillation/{weight}/{temperature}', f'({weight}, {temperature})'
    tokens = jnp.asarray(VALUES['tokens'][:, 0])

    def metrics(policy: Any) -> Metrics:
        model = bound(policy[:, 0], VALUES['reference'][:, 0])
        return build_task(f'distillation{task}')(model, {'tokens': tokens}, None)

    found = metrics(VALUES['policy'])
    for key in ('loss', 'divergence'):
        np.testing.assert_allclose(found[key].value(), VALUES[f'{name}/{key}'].mean(), **CLOSE)
    gradient = jax.grad(lambda x: metrics(x)['loss'].total)(VALUES['policy'])
    np.testing.assert_allclose(gradient, VALUES[f'{name}/d_logits'], **CLOSE)


def test_a_teacher_that_says_the_same_is_at_no_distance_and_causal_lm_remains() -> None:
    logits, batch = VALUES['policy'][:, 0], {'tokens': jnp.asarray(VALUES['tokens'][:, 0])}
    found = build_task('distillation(weight=0.25)')(bound(logits, logits), batch, None)
    plain = build_task('causal_lm')(bound(logits), batch, None)
    assert found['divergence'].value() == pytest.approx(0, abs=1e-6)
    assert found['loss'].value() == pytest.approx(0.75 * plain['loss'].value(), rel=1e-5)
    for key in ('nll', 'accuracy'):
        assert found[key].value() == pytest.approx(plain[key].value(), rel=1e-6)


@pytest.mark.parametrize('spec', ['dpo', 'simpo'])
def test_padding_and_pairs_that_lost_a_response_do_not_count(spec: str) -> None:
    task, model = build_task(spec), bound(VALUES['policy'], VALUES['reference'])
    want = task(model, pairs(), None)
    for key, mean in task(model, pairs(garbage=7), None).items():
        assert mean.value() == want[key].value()
    cut = pairs()
    cut['marks'] = cut['marks'].at[1, 0].set(0)
    found, alone = task(model, cut, None), each_pair(spec, VALUES['policy'], pairs())
    assert float(found['loss'].weight) == 2
    others = [alone[i]['loss'].value() for i in (0, 2)]
    assert found['loss'].value() == pytest.approx(np.mean(others), rel=1e-5)


def test_a_prompt_has_no_part_in_the_loss() -> None:
    """No gradient where the next token is the prompt's or padding."""
    task = build_task('simpo')

    def total(policy: Any) -> jax.Array:
        return task(bound(policy), pairs(), None)['loss'].total

    gradient = np.abs(jax.grad(total)(VALUES['policy'])).max(-1)
    there = np.pad(VALUES['response'][..., 1:], ((0, 0), (0, 0), (0, 1)))
    np.testing.assert_array_equal(gradient > 0, there > 0)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('dpo(beta=0.0)', 'must be positive'),
        ('simpo(gamma=-1.0)', 'at least 0'),
        ('distillation(weight=1.5)', r'in \[0, 1\]'),
        ('distillation(temperature=0.0)', 'must be positive'),
    ],
)
def test_bad_arguments_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(spec)
