"""Prefix LM: by hand, even draws, the loss of what follows alone, and no later token leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.errors import UserError
from bigmodel.models.model import apply
from bigmodel.tasks.build import build_task
from bigmodel.tasks.prefix_lm import draw_prefixes
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from experiments import defaults
from tests.small import random_params, random_tokens, small_model

TASK = build_task('prefix_lm')
# Two documents and padding, one document, and a document of one token before another.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8, [1, 2, 2, 2, 2, 2, 2, 2]])


class Given(Draws):
    """Draws that a test prescribes: of padding, and of each document."""

    def __init__(self, unit: list[list[float]]) -> None:
        self._unit = unit

    def unit(self, count: int) -> np.ndarray:
        assert count == 9
        return np.array([row + [0.5] * (count - len(row)) for row in self._unit])


def by_hand() -> dict[str, np.ndarray]:
    given = Given([[0.9, 0.6, 0.0], [0.9, 0.999], [0.9, 0.5, 0.5]])
    rows = {'tokens': random_tokens(3, 8), 'segments': SEGMENTS}
    return TASK.prepare(rows, given, ByteTokenizer())


def test_rows_by_hand() -> None:
    """1 + floor(u·(n−1)) of n tokens: of 3 and 4, of 8, of 1 and 7."""
    made = by_hand()
    assert made['prefix'].astype(int).tolist() == [
        [1, 1, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
    ]
    np.testing.assert_array_equal(made['weights'], 1 - made['prefix'])


def test_the_loss_is_of_the_tokens_after_a_prefix() -> None:
    made = {k: jnp.asarray(v) for k, v in by_hand().items()}
    logits, seen = np.random.default_rng(0).standard_normal((3, 7, 32)), {}

    def model(tokens, positions, segments, key, prefix):
        seen.update(prefix=prefix)
        return jnp.asarray(logits)

    metrics = TASK(model, made, None)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    after = [(0, 2), (0, 4), (0, 5), (0, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    want = [-log_p[b, i - 1, made['tokens'][b, i]] for b, i in after]
    assert float(metrics['loss'].weight) == len(after)
    assert metrics['loss'].value() == pytest.approx(np.mean(want), rel=1e-5)
    np.testing.assert_array_equal(seen['prefix'], made['prefix'][:, :-1])


def test_every_length_is_equally_likely_and_depends_on_its_row_alone() -> None:
    document = np.ones((20_000, 5), np.int64)
    keys = np.arange(20_000, dtype=np.uint64)
    prefix = draw_prefixes(document, Draws(keys))
    counts = np.bincount(prefix.sum(1), minlength=6)
    assert counts[[0, 5]].sum() == 0
    # 20,000 draws of four lengths: a standard deviation of 61.
    assert np.abs(counts[1:5] - 5000).max() < 305
    np.testing.assert_array_equal(draw_prefixes(document[:9], Draws(keys[:9])), prefix[:9])
    assert (prefix[:, :-1] >= prefix[:, 1:]).all()


def test_a_prefix_is_seen_from_both_sides_and_nothing_else_leaks() -> None:
    """Changing a token moves the logits of its document that may see it, and no others."""
    model = small_model(8, mask='prefix', position='rope')
    params = random_params(model)
    tokens, segments = random_tokens(1, 8), jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]])
    prefix = jnp.array([[1, 1, 0, 1, 1, 1, 0, 0]], bool)
    run = jax.jit(lambda t: apply(model, params, t, None, segments, prefix=prefix))
    base = run(jnp.asarray(tokens))
    for i in range(8):
        changed = jnp.asarray(tokens).at[0, i].add(1) % 32
        moved = np.abs(run(changed) - base)[0].max(-1) > 0
        first = i if not prefix[0, i] else (0 if i < 3 else 3)
        want = [segments[0, j] == segments[0, i] and j >= first for j in range(8)]
        assert moved.tolist() == want


def config(**model):
    c = defaults.get_config()
    c.task = 'prefix_lm'
    c.data.seq_len, c.data.batch_size = 16, 8
    c.model.update(depth=2, width=16, num_heads=2, **model)
    return c


@pytest.mark.parametrize(
    ('model', 'task', 'message'),
    [
        ({'mask': 'causal'}, 'prefix_lm', "'causal' shows one; use 'prefix'"),
        ({'mask': 'full'}, 'prefix_lm', "predicts tokens that model.mask='full' shows"),
        ({'mask': 'prefix(4)'}, 'prefix_lm', r"model.mask='prefix\(4\)' shows; use 'prefix'"),
        ({'pattern': ('prefix', 'full')}, 'prefix_lm', "predicts tokens that model.mask='full'"),
        ({'mask': 'prefix'}, 'causal_lm', "marks no prefix, which model.mask='prefix' shows"),
        ({'mask': 'prefix'}, 'masked_lm', "marks no prefix, which model.mask='prefix' shows"),
    ],
)
def test_masks_that_do_not_fit_are_refused(model, task, message, tmp_path) -> None:
    (tmp_path / 'text.txt').write_text('the quick brown fox. ' * 100)
    c = config(**model)
    c.task, c.data.source, c.data.path = task, 'text', str(tmp_path / 'text.txt')
    c.data.cache_dir = str(tmp_path / 'cache')
    with pytest.raises(UserError, match=message):
        build(resolve(c))
