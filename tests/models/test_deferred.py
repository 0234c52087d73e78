"""Logits in chunks: values, gradients and metrics of whole ones, in the memory of a chunk."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.models.counts import flops_per_row
from bigmodel.models.decoding import greedy
from bigmodel.models.deferred import Deferred, per_token
from bigmodel.models.heads import chunk_of
from bigmodel.models.model import apply
from bigmodel.tasks.build import build_task
from bigmodel.tasks.distillation import divergence
from bigmodel.tasks.losses import cross_entropy
from bigmodel.tasks.replaced_tokens import drawn
from bigmodel.tasks.task import BoundModel
from bigmodel.training.state import abstract_params
from bigmodel.training.step import gradients, make_loss_fn
from tests.small import (
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
    unboxed_shapes,
)

ROWS, LENGTH = 3, 12
CHUNK = 7  # 36 tokens: five chunks of 7 and one of 1, made six of 6; or with 5, eight of which one
# Sums of 36 tokens' float32 gradients in another order.
CLOSE = {'rtol': 2e-5, 'atol': 2e-6}
HEADS = [
    'lm(tied=True, scale=True, chunk=5)',
    'lm(tied=False, chunk=7)',
    'mlm(chunk=100)',
    'mlm(tied=False, chunk=1)',
]


def whole(head: str) -> str:
    return re.sub(r'chunk=\d+', 'chunk=0', head)


def batch() -> dict[str, jax.Array]:
    """Rows of which one ends early, with weights."""
    tokens = random_tokens(ROWS, LENGTH + 1)
    segments = np.where(slots(*tokens.shape) < np.array([[13], [4], [11]]), 1, 0)
    weights = np.random.default_rng(0).random(tokens.shape).astype(np.float32)
    made = {'tokens': tokens, 'segments': segments.astype(np.int32), 'weights': weights}
    return {k: jnp.asarray(v) for k, v in made.items()}


def learned(task: str, model: dict[str, Any], accumulate: int = 1) -> Callable[[Any], Any]:
    """params -> (gradients, metrics)."""
    loss = make_loss_fn(small_model(LENGTH, **model), build_task(task))
    return lambda params: gradients(loss, params, batch(), None, accumulate)


def both(task: str, head: str, **model: Any) -> list[Any]:
    """Gradients and metrics with the head in chunks, and with the whole one."""
    found = []
    for each in (head, whole(head)):
        model = model | {'head': each, 'vocab_size': 40, 'depth': 1}  # of which 32 are known
        params = random_params(small_model(LENGTH, **model))
        found.append(jax.device_get(quick_jit(learned(task, model))(params)))
    return found


def values(metrics: Any) -> dict[str, float]:
    return {k: float(m.value()) for k, m in metrics.items()}


@pytest.mark.parametrize('head', HEADS)
def test_metrics_and_gradients_are_those_of_whole_logits(head: str) -> None:
    got, want = both('causal_lm(z_loss=1e-2, label_smoothing=0.1)', head)
    assert values(got[1]) == pytest.approx(values(want[1]), rel=1e-6)
    assert_trees_close(got[0], want[0], **CLOSE)


def test_muP_scales_logits_and_tokens_ahead_share_the_head() -> None:
    got, want = both('causal_lm', 'lm(tied=False, chunk=7)', init='mup(base_width=8)', ahead='mtp')
    assert 'ahead' in got[1]
    assert values(got[1]) == pytest.approx(values(want[1]), rel=1e-6)
    assert_trees_close(got[0], want[0], **CLOSE)


def test_microbatches_and_arms_side_by_side_are_each_alone() -> None:
    model = {'head': 'lm(chunk=7)', 'vocab_size': 40, 'depth': 1}
    params = [random_params(small_model(LENGTH, **model), seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *params)
    got, metrics = quick_jit(jax.vmap(learned('causal_lm', model, accumulate=3)))(stacked)
    alone = quick_jit(learned('causal_lm', model | {'head': 'lm'}))
    for i, own in enumerate(params):
        want = alone(own)
        np.testing.assert_allclose(metrics['nll'].total[i], want[1]['nll'].total, rtol=1e-6)
        assert_trees_close(jax.tree.map(lambda x: x[i], got), want[0], **CLOSE)  # noqa: B023


def random_logits(dtype: str, chunk: int, tokens: int, seed: int = 0) -> Deferred:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((1, tokens, 8)), rng.standard_normal((8, 24))
    return Deferred(jnp.asarray(x, dtype), jnp.asarray(w, dtype), None, 1.0, 24, chunk)


def test_gradients_of_bfloat16_weights_are_added_up_in_float32() -> None:
    """256 chunks add no error to that of one product."""

    def gradient(dtype: str, chunk: int) -> np.ndarray:
        logits = random_logits(dtype, chunk, 512)
        exact = random_logits('bfloat16', chunk, 512)  # the same numbers, whatever the dtype
        x, w = (v.astype(dtype) for v in (exact.x_BLD, exact.weight_DV))

        def loss(w: jax.Array) -> jax.Array:
            targets = jnp.arange(512)[None] % 5
            return jnp.sum(cross_entropy(logits.replace(x_BLD=x, weight_DV=w), targets)[0])

        return np.asarray(quick_jit(jax.grad(loss))(w), np.float32)

    exact = gradient('float32', 512)
    error = {chunk: np.linalg.norm(gradient('bfloat16', chunk) - exact) for chunk in (2, 512)}
    assert error[2] < 1.2 * error[512]


@pytest.mark.parametrize('chunks', [(5, 5), (5, 0), (0, 5)])
def test_divergences_are_those_of_whole_logits(chunks: tuple[int, int]) -> None:
    """Of two models, of which one may have its logits all at once."""
    logits = [random_logits('float32', 1, 17, seed) for seed in (0, 1)]
    read = partial(divergence, temperature=2.0)

    def total(chunks: tuple[int, int], weights: list[jax.Array]) -> jax.Array:
        both = [
            x.replace(chunk=chunk, weight_DV=w)
            for x, chunk, w in zip(logits, chunks, weights, strict=True)
        ]
        each = per_token(read, *[x if x.chunk else x.whole() for x in both])
        return jnp.sum(each * jnp.arange(17.0))

    weights = [x.weight_DV for x in logits]
    got, want = (
        quick_jit(jax.value_and_grad(partial(total, each)))(weights) for each in (chunks, (0, 0))
    )
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), got, want)


def test_draws_are_those_of_whole_logits() -> None:
    logits, numbers = random_logits('float32', 5, 17), jnp.linspace(0.01, 1, 17)[None]
    got = quick_jit(partial(per_token, drawn))(logits, numbers)
    np.testing.assert_array_equal(got, drawn(logits.whole(), numbers))


def test_companions_and_pairs_are_read_in_chunks() -> None:
    """DPO's likelihoods, of a model and of a frozen reference."""
    tokens = jnp.asarray(random_tokens(4, LENGTH + 1).reshape(2, 2, -1))
    rows = {'tokens': tokens, 'marks': (tokens > 9).astype(jnp.int32)}

    def loss(head: str, params: Any) -> jax.Array:
        model = small_model(LENGTH, head=head)
        reference = lambda *a: jax.lax.stop_gradient(apply(model, frozen, *a))  # noqa: E731
        bound = BoundModel(partial(apply, model, params), {'reference': reference})
        return build_task('dpo')(bound, rows, None)['loss'].total

    params, frozen = (random_params(small_model(LENGTH), seed) for seed in (0, 1))
    got, want = (
        quick_jit(jax.value_and_grad(partial(loss, head)))(params) for head in ('lm(chunk=5)', 'lm')
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    assert_trees_close(got[1], want[1], **CLOSE)


def test_decoding_has_whole_logits() -> None:
    prompts, lengths = jnp.asarray(random_tokens(2, 3)), jnp.full(2, 3)

    def ids(head: str) -> jax.Array:
        model = small_model(LENGTH, head=head)
        return quick_jit(lambda p: greedy(model, p, prompts, lengths, 4, 3))(random_params(model))

    np.testing.assert_array_equal(ids('lm(chunk=2)'), ids('lm'))


def test_no_array_of_all_logits_is_made() -> None:
    """Neither forward nor backward, of a large vocabulary: all logits take 2.1 GB, a chunk's 0.13.

    Nothing is computed. `pytest -s` prints the megabytes.
    """
    tokens, ids, chunk = 4096, 128_256, 256

    def compiled(head: str) -> Any:
        model = small_model(512, head=head, vocab_size=ids, depth=1)
        loss = make_loss_fn(model, build_task('causal_lm'))
        rows = {'tokens': jax.ShapeDtypeStruct((8, 513), jnp.int32)}
        grad = jax.grad(lambda p, rows: loss(p, rows, None)[0])
        return quick_jit(grad).lower(unboxed_shapes(model), rows).compile()

    def of_all(program: Any) -> set[str]:
        arrays = set(re.findall(r'\w+\[[\d,]+\]', program.as_text()))
        sizes = {a: math.prod(map(int, a[:-1].split('[')[1].split(','))) for a in arrays}
        return {a for a, size in sizes.items() if size >= tokens * ids}

    got, want = compiled(f'lm(chunk={chunk})'), compiled('lm')
    temporaries = [p.memory_analysis().temp_size_in_bytes for p in (got, want)]
    print(*(f'{n / 1e6:.0f} MB' for n in temporaries))
    assert of_all(want) and not of_all(got)
    assert temporaries[1] - temporaries[0] > 4 * tokens * ids


def test_counts_are_of_useful_products() -> None:
    def flops(head: str) -> int:
        config = small_config(LENGTH, head=head).model
        return flops_per_row(config, abstract_params(small_model(LENGTH, head=head)), LENGTH)

    assert flops('lm(tied=False, chunk=4)') == flops('lm(tied=False)')


def test_a_head_says_for_how_many_tokens_it_has_logits() -> None:
    assert chunk_of('lm') == chunk_of('classifier') == 0
    assert chunk_of('joint(second="lm(chunk=6)")') == 6
