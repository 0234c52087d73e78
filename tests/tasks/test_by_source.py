"""Metrics of each source: exact parts of the whole, at the cost of one forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.tasks.build import TASKS, build_task
from bigmodel.tasks.by_source import by_source
from bigmodel.training.step import make_loss_fn
from tests.small import quick_jit, random_params, small_model
from tests.tasks.test_tasks import LABELS, LENGTH, SHAPES, SPECS, batch_of, companion_models

NAMES = ('a', 'b', 'none')
ORIGIN = jnp.array([0, 1, 1, 0], jnp.int32)
# Sums of the same float32 numbers in another order.
CLOSE = {'rtol': 1e-5, 'atol': 1e-6}


@functools.cache
def case(name):
    """A compiled (params, batch) -> metrics of each source, with a batch."""
    task = build_task(SPECS.get(name, name))
    model = small_model(LENGTH, LABELS, **SHAPES[name])
    params = random_params(model)
    models = companion_models(task, model)
    frozen = {name: random_params(theirs, 1) for name, theirs in models.items()}

    def run(objective):
        loss_fn = make_loss_fn(model, objective, models)
        return quick_jit(lambda batch: loss_fn(params, batch, None, frozen)[1])

    return run(task), run(by_source(task, NAMES)), batch_of(task)


@pytest.mark.parametrize('name', TASKS)
def test_the_sources_add_up_to_the_whole_and_each_is_its_rows_alone(name):
    plain, split, batch = case(name)
    got = split(batch | {'origin': ORIGIN})
    whole = plain(batch)
    for metric, mean in whole.items():
        np.testing.assert_allclose(got[metric].total, mean.total, **CLOSE)
        parts = [got[f'{metric}/{of}'] for of in NAMES]
        np.testing.assert_allclose(sum(p.total for p in parts), mean.total, **CLOSE)
        np.testing.assert_allclose(sum(p.weight for p in parts), mean.weight, **CLOSE)
        assert float(parts[2].weight) == 0
    assert len(got) == len(whole) * (1 + len(NAMES))
    alone = plain({k: v[ORIGIN == 1] for k, v in batch.items()})
    for metric, mean in alone.items():
        assert got[f'{metric}/b'].value() == pytest.approx(mean.value(), rel=1e-4, abs=1e-6)


def test_rows_that_fill_up_a_batch_count_for_no_source():
    _, split, batch = case('causal_lm')
    valid = jnp.array([1.0, 1.0, 0.0, 0.0])
    got = split(batch | {'origin': ORIGIN, 'valid': valid})
    assert float(got['nll/a'].weight) == float(got['nll/b'].weight) == LENGTH


def test_the_model_is_computed_once_and_the_program_costs_the_same():
    """By XLA's own count of a compiled training step's floating-point operations."""
    task, model = build_task('causal_lm'), small_model(LENGTH, width=64)
    params = random_params(model)
    batch = batch_of(task)

    def cost(objective, **more):
        loss_fn = make_loss_fn(model, objective)
        grad = quick_jit(jax.grad(loss_fn, has_aux=True))
        compiled = grad.lower(params, batch | more, None).compile()
        return compiled.cost_analysis()['flops']

    plain, split = cost(task), cost(by_source(task, NAMES), origin=ORIGIN)
    assert 0 <= split / plain - 1 < 0.002
