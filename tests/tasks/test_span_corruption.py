"""Span corruption: the figure of its paper, exact rates, even draws, and nothing lost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import Batches
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.errors import UserError
from bigmodel.models.encoder import Source
from bigmodel.tasks.build import build_task
from bigmodel.tasks.corruption import Spans, _partition, cut_out
from bigmodel.tasks.layouts import Joined

SENTINEL = 1000
LENGTHS = np.array([60, 60, 47, 20, 5, 3, 2, 1, 0])


def draws(rows: int, seed: int = 0) -> Draws:
    return Draws(np.arange(rows, dtype=np.uint64) + np.uint64(seed * 100_003))


def rows(lengths: np.ndarray = LENGTHS, size: int = 60) -> dict[str, np.ndarray]:
    """Different tokens in every place; what pads a row is none of them."""
    tokens = np.arange(lengths.size * size, dtype=np.int32).reshape(-1, size) % 251 + 5
    segments = (np.arange(size) < lengths[:, None]).astype(np.int32)
    return {'tokens': np.where(segments > 0, tokens, 3), 'segments': segments}


def restored(source: list[int], target: list[int], sentinel: int = SENTINEL) -> list[int]:
    """The text: each sentinel of the source replaced by what follows it in the target."""
    assert target[0] == sentinel
    spans: dict[int, list[int]] = {}
    for token in target:
        if token >= sentinel:
            assert token == sentinel + len(spans)
            spans[token] = []
        else:
            spans[sentinel + len(spans) - 1].append(token)
    last = max(spans)
    assert not spans.pop(last) and all(spans.values())
    assert [t for t in source if t >= sentinel] == list(spans)
    return [t for token in source for t in spans.get(token, [token])]


def test_the_figure_of_the_paper() -> None:
    words = ['Thank', 'you', 'for', 'inviting', 'me', 'to', 'your', 'party', 'last', 'week']
    cut = {'for', 'inviting', 'last'}
    tokens, noise = np.arange(10)[None], np.array([[w in cut for w in words]])
    got = cut_out(tokens, np.array([10]), noise, SENTINEL)
    marks = {SENTINEL: '<X>', SENTINEL + 1: '<Y>', SENTINEL + 2: '<Z>'}
    texts = [
        ' '.join(marks.get(i) or words[i] for i in row[0].tolist())
        for row in (got.source, got.target)
    ]
    assert texts == ['Thank you <X> me to your party <Y> week', '<X> for inviting <Y> last <Z>']
    assert (got.source_lengths[0], got.target_lengths[0]) == (9, 6)


def test_a_span_may_begin_a_text_or_be_all_of_it() -> None:
    tokens = np.array([[7, 8, 9], [7, 8, 9]])
    noise = np.array([[True, False, True], [True, True, True]])
    got = cut_out(tokens, np.array([3, 3]), noise, SENTINEL)
    assert got.source.tolist() == [[1000, 8, 1001], [1000, 0, 0]]
    assert got.target.tolist() == [[1000, 7, 1001, 9, 1002], [1000, 7, 8, 9, 1001]]


@pytest.mark.parametrize(('rate', 'mean'), [(0.15, 3.0), (0.5, 32.0), (0.9, 1.0), (0.3, 1.5)])
def test_rates_are_exact_and_nothing_is_lost(rate: float, mean: float) -> None:
    lengths, batch = LENGTHS, rows()
    spans = Spans(rate, mean)
    noise = spans.draw(lengths, draws(len(lengths)), 60)
    got = cut_out(batch['tokens'], lengths, noise, SENTINEL)
    for i, n in enumerate(lengths.tolist()):
        wanted = 0 if n < 2 else min(max(round(n * rate), 1), n - 1)
        runs = [cut for cut, _ in itertools.groupby(noise[i, :n].tolist())]
        assert noise[i].sum() == wanted and not noise[i, n:].any()
        assert sum(runs) == (wanted and min(max(round(wanted / mean), 1), wanted, n - wanted))
        assert n < 2 or (runs[0], runs[-1]) == (False, True)
        source = got.source[i, : got.source_lengths[i]].tolist()
        target = got.target[i, : got.target_lengths[i]].tolist()
        assert len(source) == n - wanted + sum(runs)
        assert len(target) == (wanted + sum(runs) + 1 if n else 0)
        if n:
            assert restored(source, target) == batch['tokens'][i, :n].tolist()


def test_all_ways_to_part_are_equally_likely() -> None:
    """Of six things into three pieces there are ten; beside rows of other sizes."""
    n = 20_000
    items, parts = np.tile([6, 4], n), np.tile([3, 1], n)
    sizes = _partition(draws(2 * n), items, parts, 9)
    assert (sizes[1::2] == [4, 0, 0]).all()
    ways, counts = np.unique(sizes[::2], axis=0, return_counts=True)
    assert len(ways) == 10 and (ways > 0).all() and (ways.sum(1) == 6).all()
    # 20,000 draws: a standard deviation of 42.
    assert np.abs(counts - 2000).max() < 200


def test_no_row_becomes_longer_than_a_full_one() -> None:
    for rate, mean in itertools.product((0.01, 0.15, 0.5, 0.85, 0.99), (1.0, 2.5, 3.0, 30.0)):
        lengths = np.arange(600)
        noise, spans = Spans(rate, mean).counts(lengths)
        assert (np.diff(noise + spans) >= 0).all() and (np.diff(lengths - noise + spans) >= 0).all()


def test_batches_have_the_shapes_of_full_rows_and_hold_the_text() -> None:
    task, batch, tokenizer = build_task('span_corruption'), rows(), ByteTokenizer()
    assert task.lengths(60) == (9 + 3 + 1, 60 - 9 + 3)
    made = task.prepare(batch, draws(len(LENGTHS)), tokenizer)
    shapes = {'tokens': 14, 'segments': 14, 'source': 54, 'source_segments': 54}
    assert {k: (x.shape[1], x.dtype) for k, x in made.items()} == {
        k: (length, np.int32) for k, length in shapes.items()
    }
    assert (made['tokens'][:, 0] == tokenizer.pad_id).all()
    for i, n in enumerate(LENGTHS.tolist()):
        ours, theirs = made['segments'][i] > 0, made['source_segments'][i] > 0
        for inside in (ours, theirs):
            assert (np.diff(inside.astype(int)) <= 0).all()
        target, source = made['tokens'][i, ours][1:].tolist(), made['source'][i, theirs].tolist()
        assert not n or restored(source, target, 258) == batch['tokens'][i, :n].tolist()
        assert (made['tokens'][i, ~ours] == 0).all() and (made['source'][i, ~theirs] == 0).all()
    full = made['segments'][:2], made['source_segments'][:2]
    assert all((x == 1).all() for x in full)


def test_a_row_is_one_text_whatever_documents_it_holds() -> None:
    task, one = build_task('span_corruption'), rows(np.array([60, 60]))
    two = one | {'segments': np.repeat([[1] * 25 + [2] * 35], 2, 0).astype(np.int32)}
    bare = {'tokens': one['tokens']}
    made = [task.prepare(batch, draws(2), ByteTokenizer()) for batch in (one, two, bare)]
    for other in made[1:]:
        assert all(np.array_equal(other[k], made[0][k]) for k in made[0])


class Texts:
    """Twelve rows, always the same."""

    length, num_truncated, padding_share, labelled = 60, 0, 0.0, False
    documents = NO_DOCUMENTS

    def __len__(self) -> int:
        return 12

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {k: x[indices] for k, x in rows(np.full(12, 60)).items()}


def batches(shuffle: bool, seed: int = 0) -> Batches:
    task, tokenizer = build_task('span_corruption'), ByteTokenizer()
    prepare = lambda rows, draws: task.prepare(rows, draws, tokenizer)  # noqa: E731
    return Batches(Texts(), 4, seed, shuffle, prepare=prepare)


def sources(made: Batches, steps: range) -> set[bytes]:
    return {row.tobytes() for step in steps for row in made(step)['source']}


def test_spans_depend_on_seed_and_place_alone() -> None:
    """The same after a resume, others in the next epoch and with another seed."""
    one = batches(True)
    for step in (5, 0):
        again = batches(True)(step)
        assert all(np.array_equal(x, again[k]) for k, x in one(step).items())
    epochs = [sources(one, range(3 * i, 3 * i + 3)) for i in range(3)]
    assert all(not a & b for a, b in itertools.combinations(epochs, 2))
    assert not epochs[0] & sources(batches(True, seed=1), range(3))


def test_an_evaluation_is_the_same_each_time() -> None:
    made = batches(False)
    first, second = ([made(step) for step in range(3)] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_losses_are_of_the_targets_alone() -> None:
    task, rng, seen = build_task('span_corruption(z_loss=0.01)'), np.random.default_rng(0), {}
    lengths = np.array([20, 9])
    made = task.prepare(rows(lengths, 20), draws(2), ByteTokenizer())
    logits = rng.standard_normal((2, *task.lengths(20)[:1], 400)).astype(np.float32)

    def model(tokens, positions, segments, key, source: Source) -> jax.Array:
        seen.update(tokens=tokens, segments=segments, source=source, positions=positions)
        return jnp.asarray(logits)

    metrics = task(model, {k: jnp.asarray(x) for k, x in made.items()}, None)
    targets = [made['tokens'][i, 1:][made['segments'][i, 1:] > 0] for i in range(2)]
    assert [len(t) for t in targets] == [3 + 1 + 1, 1 + 1 + 1]
    log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    places = [(i, j, t) for i in range(2) for j, t in enumerate(targets[i])]
    nll = [log_z[i, j] - logits[i, j, t] for i, j, t in places]
    assert metrics['nll'].value() == pytest.approx(np.mean(nll), rel=1e-5)
    extra = np.mean([0.01 * log_z[i, j] ** 2 for i, j, _ in places])
    assert metrics['loss'].value() == pytest.approx(np.mean(nll) + extra, rel=1e-5)
    right = np.mean([logits[i, j].argmax() == t for i, j, t in places])
    assert metrics['accuracy'].value() == pytest.approx(right)
    np.testing.assert_array_equal(seen['tokens'], made['tokens'][:, :-1])
    np.testing.assert_array_equal(seen['segments'], made['segments'][:, :-1])
    np.testing.assert_array_equal(seen['source'].inputs, made['source'])
    np.testing.assert_array_equal(seen['source'].segments, made['source_segments'])


def test_a_decoder_reads_the_source_of_the_paper_and_then_spells_its_target() -> None:
    words = ['Thank', 'you', 'for', 'inviting', 'me', 'to', 'your', 'party', 'last', 'week']
    cut = {'for', 'inviting', 'last'}
    tokens = np.array([[*range(10)], [*range(10)]], np.int32) + 5
    noise = np.array([[w in cut for w in words], [w == 'you' for w in words]])
    got = cut_out(tokens, np.array([10, 3]), noise, SENTINEL)
    made = Joined().rows(got, (16, 0), ByteTokenizer())
    names = {i + 5: w for i, w in enumerate(words)} | {1000: '<X>', 1001: '<Y>', 1002: '<Z>', 0: ''}
    texts = [' '.join(names[i] for i in row).rstrip() for row in made['tokens'].tolist()]
    assert texts == [
        'Thank you <X> me to your party <Y> week <X> for inviting <Y> last <Z>',
        'Thank <X> for <X> you <Y>',
    ]
    assert made['prefix'].sum(1).tolist() == [9, 3] and made['prefix'][:, :3].all()
    for key, want in (('segments', [[1] * 15 + [0] * 2, [1] * 6 + [0] * 11]),):
        assert made[key].tolist() == want
    assert made['weights'].tolist() == [[0] * 9 + [1] * 6 + [0] * 2, [0] * 3 + [1] * 3 + [0] * 11]


def test_a_decoders_loss_is_of_the_targets_alone() -> None:
    task, seen = build_task('span_corruption(decoder_only=True)'), {}
    lengths = np.array([20, 9, 0])
    made = task.prepare(rows(lengths, 20), draws(3), ByteTokenizer())
    assert task.lengths(20) == (20 + 2 * 1 + 1 - 1, 0) == (made['tokens'].shape[1] - 1, 0)
    logits = np.random.default_rng(0).standard_normal((3, task.lengths(20)[0], 400))

    def model(tokens, positions, segments, key, prefix) -> jax.Array:
        seen.update(tokens=tokens, segments=segments, prefix=prefix)
        return jnp.asarray(logits, jnp.float32)

    metrics = task(model, {k: jnp.asarray(x) for k, x in made.items()}, None)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = []
    for i, (n, cut, spelt) in enumerate([(20, 3, 5), (9, 1, 3), (0, 0, 0)]):
        row, read = made['tokens'][i].tolist(), n and n - cut + 1
        assert not n or restored(row[:read], row[read : read + spelt], 258) == (
            rows(lengths, 20)['tokens'][i, :n].tolist()
        )
        nll += [-log_p[i, j - 1, row[j]] for j in range(read, read + spelt)]
        assert seen['prefix'][i].sum() == read
    assert float(metrics['loss'].weight) == len(nll) == 8
    assert metrics['nll'].value() == pytest.approx(np.mean(nll), rel=1e-5)
    for key in seen:
        np.testing.assert_array_equal(seen[key], made[key][:, :-1])


def test_the_prompt_of_a_decoder_is_its_prefix() -> None:
    task = build_task('span_corruption(sentinels=4, decoder_only=True)')
    begin = task.begin([5, 258, 6, 259], ByteTokenizer())
    assert (begin.tokens, begin.end, begin.source, begin.prefix) == ([5, 258, 6, 259], 260, (), 4)


@pytest.mark.parametrize(
    ('spec', 'seq_len', 'message'),
    [
        ('span_corruption', 1, 'data.seq_len=1: spans need rows of 2 tokens'),
        ('span_corruption(sentinels=25)', 512, r'26 spans.*set sentinels=27'),
        ('span_corruption(rate=1.0)', 60, r'rate=.*must be in \[0, 1\), got 1.0'),
        ('span_corruption(rate=0.0)', 60, 'rate=.*must be positive, got 0.0'),
        ('span_corruption(mean_length=0.5)', 60, 'mean_length=.*must be at least 1, got 0.5'),
    ],
)
def test_impossible_spans_are_refused(spec: str, seq_len: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(spec).lengths(seq_len)
    build_task('span_corruption(sentinels=27)').lengths(512)
