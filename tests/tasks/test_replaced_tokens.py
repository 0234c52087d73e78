"""Replaced-token detection: by hand, in shares of the generator, and the same for the same row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics
from bigmodel.tasks.build import TASKS, build_task
from bigmodel.tasks.masked_lm import MaskedLM
from bigmodel.tasks.replaced_tokens import STEPS, drawn
from bigmodel.tasks.task import BoundModel
from bigmodel.training.companions import REFUSALS
from bigmodel.training.step import make_loss_fn
from tests.small import quick_jit, random_params, slots, small_model
from tests.tasks.test_tasks import LENGTH, SHAPES, batch_of

BYTES = ByteTokenizer()
MASK = BYTES.vocab_size
TASK = build_task('replaced_tokens')


def draws(rows: int, seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed).integers(0, 2**63, rows).astype(np.uint64))


def lines(rows: int, length: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(1).integers(0, 256, (rows, length)).astype(np.int32)
    return {'tokens': tokens} | more


def batch(rows: int, length: int, **more: np.ndarray) -> dict[str, jax.Array]:
    made = TASK.prepare(lines(rows, length, **more), draws(rows), BYTES)
    return {k: jnp.asarray(v) for k, v in made.items()}


class Seen:
    """A discriminator that says these logits, and keeps what it was shown."""

    def __init__(self, logits: Any) -> None:
        self.logits, self.tokens = jnp.asarray(logits, jnp.float32), None

    def __call__(self, tokens: jax.Array, *args: Any) -> jax.Array:
        self.tokens = np.asarray(tokens)
        return self.logits


def judged(logits: Any, guesses: Any, made: dict[str, jax.Array]) -> tuple[Metrics, np.ndarray]:
    """The metrics, and the tokens of which the discriminator judged."""
    seen = Seen(logits)
    model = BoundModel(seen, {'generator': lambda *args: jnp.asarray(guesses, jnp.float32)})
    return TASK(model, made, None), seen.tokens


def test_the_loss_is_binary_cross_entropy_of_every_token() -> None:
    """Of the paper's D(x, t) = sigmoid(logit), from the tokens that were shown; not of padding."""
    segments = np.array([[1] * 20, [1] * 12 + [0] * 8], np.int32)
    made = batch(2, 20, segments=segments, positions=slots(2, 20))
    rng = np.random.default_rng(3)
    logits, guesses = rng.standard_normal((2, 20)), rng.standard_normal((2, 20, MASK + 1))
    metrics, shown = judged(logits, guesses, made)
    there, original = segments > 0, lines(2, 20)['tokens']
    y = (shown != original)[there]
    d = 1 / (1 + np.exp(-logits[there]))
    assert 0 < y.sum() <= 3 + 2  # 0.15 of 20 and of 12 tokens are chosen
    loss = -(y * np.log(d) + (1 - y) * np.log(1 - d))
    right = (d > 0.5) == y
    want = {'loss': loss, 'accuracy': right, 'replaced': y, 'found': right[y]}
    assert metrics.keys() == want.keys()
    for name, values in want.items():
        assert metrics[name].value() == pytest.approx(values.mean(), rel=1e-5)
        assert float(metrics[name].weight) == len(values)
    valid, _ = judged(logits, guesses, made | {'valid': jnp.array([0.0, 1.0])})
    assert valid['loss'].value() == pytest.approx(loss[20:].mean(), rel=1e-5)
    assert float(valid['loss'].weight) == 12


def test_the_generator_reads_masks_where_masked_lm_chooses() -> None:
    rows = lines(8, 40, segments=np.ones((8, 40), np.int32))
    rows['tokens'][:, 0], rows['tokens'][:, -1] = BYTES.bos_id, BYTES.eos_id
    made = TASK.prepare(rows, draws(8), BYTES)
    want = MaskedLM(mask=1.0, random=0.0).prepare(rows, draws(8), BYTES)
    np.testing.assert_array_equal(made['tokens'] == MASK, want['weights'] > 0)
    np.testing.assert_array_equal(made['targets'], rows['tokens'])
    assert ((made['tokens'] == MASK).sum(1) == 6).all()  # 0.15 of 38
    assert (made['weights'] == 1).all() and made['weights'].dtype == np.float32
    assert made['numbers'].dtype == np.float32
    assert made['numbers'].min() > 0 and made['numbers'].max() <= 1


def test_replacements_are_drawn_from_the_generator_at_the_chosen_places_alone() -> None:
    """χ² of 6,000 replacements over 16 tokens; the others are 10⁻⁹ of the generator's guesses."""
    made = batch(1000, 40)
    scores = np.full(MASK + 1, -25.0)
    scores[100:116] = np.linspace(0.0, 2.5, 16)
    _, shown = judged(np.zeros((1000, 40)), np.broadcast_to(scores, (1000, 40, MASK + 1)), made)
    chosen = np.asarray(made['tokens'] == MASK)
    np.testing.assert_array_equal(shown[~chosen], made['targets'][~chosen])
    counts = np.bincount(shown[chosen] - 100, minlength=16)
    p = np.exp(scores[100:116]) / np.exp(scores[100:116]).sum()
    assert counts.sum() == 6000 and len(counts) == 16
    # 99.9 % of χ² with 15 degrees of freedom.
    assert ((counts - 6000 * p) ** 2 / (6000 * p)).sum() < 37.7


def test_a_token_that_the_generator_guesses_was_not_replaced() -> None:
    made = batch(4, 40)
    right = 50.0 * jax.nn.one_hot(made['targets'], MASK + 1)
    metrics, shown = judged(np.full((4, 40), -1.0), right, made)
    np.testing.assert_array_equal(shown, made['targets'])
    assert metrics['replaced'].value() == 0 and metrics['accuracy'].value() == 1
    assert float(metrics['found'].weight) == 0
    wrong = 50.0 * jax.nn.one_hot((made['targets'] + 1) % 256, MASK + 1)
    metrics, _ = judged(np.full((4, 40), -1.0), wrong, made)
    assert metrics['replaced'].value() == pytest.approx(6 / 40)  # 0.15 of 40
    assert metrics['found'].value() == 0


def test_numbers_are_read_off_the_cumulative_probability() -> None:
    logits = jnp.log(jnp.array([0.0, 0.5, 0.25, 0.0, 0.25, 0.0]))
    numbers = jnp.array([1 / STEPS, 0.49, 0.51, 0.74, 0.76, 1.0])
    got = drawn(jnp.broadcast_to(logits, (6, 6)), numbers)
    assert got.tolist() == [1, 1, 2, 2, 4, 4]
    many = jnp.asarray(np.random.default_rng(0).standard_normal((200, 5000)), jnp.float32)
    hidden = many.at[:, :7].set(-1e30).at[:, -9:].set(-1e30)
    for number in (1 / STEPS, 1.0):  # padded ids have no probability
        got = np.asarray(drawn(hidden, jnp.full(200, number)))
        assert got.min() >= 7 and got.max() < 4991


def test_the_same_row_has_the_same_batch_and_another_place_another() -> None:
    rows = lines(4, 40)
    once, again, other = (TASK.prepare(rows, draws(4, seed), BYTES) for seed in (0, 0, 1))
    alone = TASK.prepare({k: v[2:3] for k, v in rows.items()}, Draws(draws(4)._keys[2:3]), BYTES)
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values[2:3], alone[name])
    for name in ('tokens', 'numbers'):
        assert (once[name] != other[name]).any()


def test_whole_words_are_replaced_whole() -> None:
    text = np.frombuffer(b'lazy dogs and foxes jump over a fence ', np.uint8).astype(np.int32)
    rows, task = {'tokens': np.tile(text, (50, 1))}, build_task('replaced_tokens(whole_words=True)')
    hidden = task.prepare(rows, draws(50), BYTES)['tokens'] == MASK
    want = MaskedLM(whole_words=True).prepare(rows, draws(50), BYTES)['weights'] > 0
    np.testing.assert_array_equal(hidden, want)
    assert (hidden != (TASK.prepare(rows, draws(50), BYTES)['tokens'] == MASK)).any()


def test_no_gradient_reaches_the_generator() -> None:
    model = small_model(LENGTH, **SHAPES['replaced_tokens'])
    generator = small_model(LENGTH, **SHAPES['masked_lm'])
    loss_fn, rows = make_loss_fn(model, TASK, {'generator': generator}), batch_of(TASK)

    @quick_jit
    def gradients(params: Any, theirs: Any) -> tuple:
        loss = lambda ours, theirs: loss_fn(ours, rows, None, theirs)[0]  # noqa: E731
        return jax.grad(loss, (0, 1))(params, theirs)

    ours, theirs = gradients(random_params(model), {'generator': random_params(generator, 1)})
    assert all(np.any(leaf) for leaf in jax.tree.leaves(ours['head']))
    assert np.any(ours['inputs']['tokens']['table'])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(theirs))


@pytest.mark.parametrize('name', TASKS)
def test_what_a_task_says_of_its_companions_is_known(name: str) -> None:
    assert build_task(name).companions_are in REFUSALS


@pytest.mark.parametrize('rate', [0.0, 1.0])
def test_bad_rates_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match='rate'):
        build_task(f'replaced_tokens(rate={rate})')
