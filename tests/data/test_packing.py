"""Packings against slow references over random stores."""

import itertools

import numpy as np
import pytest

from bigmodel.data import packing
from bigmodel.data.first_fit import assign_rows
from bigmodel.data.store import TokenStore
from bigmodel.errors import UserError

PAD = 7


class Store(TokenStore):
    """Random documents in memory, some of them empty."""

    split, pad_id, label_names, group, marked = 'train', PAD, ('a', 'b', 'c'), 1, False

    def __init__(self, seed, sizes=None):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(0, 40, size=60) if sizes is None else np.array(sizes)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.num_tokens = int(self.offsets[-1])
        self.tokens = rng.integers(10, 1000, size=self.num_tokens).astype(np.uint16)
        self.labels = rng.integers(3, size=len(sizes)).astype(np.int32)

    def gather(self, positions):
        return self.tokens[positions]

    def documents(self):
        return [self.tokens[a:b].tolist() for a, b in itertools.pairwise(self.offsets)]


def join(lists):
    return list(itertools.chain.from_iterable(lists))


def row(pieces, length):
    """The three fields of a row that holds `pieces` side by side."""
    tokens = join(pieces)
    segments = join([i + 1] * len(p) for i, p in enumerate(pieces))
    positions = join(list(range(len(p))) for p in pieces)
    fill = [0] * (length - len(tokens))
    return tokens + [PAD] * len(fill), segments + fill, positions + fill


def stream_rows(store, length, overlap):
    owner = join([i] * len(d) for i, d in enumerate(store.documents()))
    for start in range(0, max(1, store.num_tokens - overlap), length - overlap):
        ids, owners = store.tokens[start : start + length].tolist(), owner[start : start + length]
        cuts = [i for i in range(1, len(ids)) if owners[i] != owners[i - 1]]
        yield row([ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=False)], length)


def cut(document, length, overlap):
    last = max(1, len(document) - overlap) if document else 0
    return [document[i : i + length] for i in range(0, last, length - overlap)]


def first_fit_rows(store, length, overlap):
    pieces = [p for d in store.documents() for p in cut(d, length, overlap)]
    rows = []
    for piece in [p for p in pieces if len(p) < length]:
        for candidate in rows:
            if sum(map(len, candidate)) + len(piece) <= length:
                candidate.append(piece)
                break
        else:
            rows.append([piece])
    rows += [[p] for p in pieces if len(p) == length]
    return [row(r, length) for r in rows]


def windows_rows(store, length, overlap):
    return [row([p], length) for d in store.documents() for p in cut(d, length, overlap)]


REFERENCES = {'stream': stream_rows, 'first_fit': first_fit_rows, 'windows': windows_rows}


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('length,overlap', [(16, 0), (17, 1), (5, 2), (1, 0), (64, 1)])
@pytest.mark.parametrize('name', REFERENCES)
def test_rows_equal_the_reference(name, length, overlap, seed):
    store = Store(seed)
    examples = packing.build_examples(name, store, length, overlap)
    expected = list(REFERENCES[name](store, length, overlap))
    assert len(examples) == len(expected)
    order = np.random.default_rng(seed).permutation(len(examples))
    rows = examples.take(order)
    for i, r in enumerate(order):
        for field, values in zip(('tokens', 'segments', 'positions'), expected[r], strict=True):
            assert rows[field][i].tolist() == values, (field, r)
    assert all(v.dtype == np.int32 for v in rows.values())
    assert examples.padding_share == pytest.approx(np.mean(rows['segments'] == 0))


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('seed', range(3))
def test_every_token_exactly_once(name, seed):
    store = Store(seed)
    examples = packing.build_examples(name, store, 13)
    rows = examples.take(np.arange(len(examples)))
    kept = rows['tokens'][rows['segments'] > 0]
    assert np.array_equal(np.sort(kept), np.sort(store.tokens))


@pytest.mark.parametrize('name', REFERENCES)
def test_with_overlap_one_each_token_is_predicted_exactly_once(name):
    store = Store(0, sizes=[50, 3, 17, 33, 16, 1, 18])
    store.tokens = np.arange(store.num_tokens).astype(np.uint16)
    examples = packing.build_examples(name, store, 17, overlap=1)
    rows = examples.take(np.arange(len(examples)))
    inside = (rows['segments'][:, 1:] == rows['segments'][:, :-1]) & (rows['segments'][:, 1:] > 0)
    predicted = rows['tokens'][:, 1:][inside]
    assert sorted(predicted) == sorted(set(range(store.num_tokens)) - set(store.offsets[:-1]))


def test_stream_without_segments_is_plain_text():
    store = Store(1)
    examples = packing.build_examples('stream(segments=False)', store, 17, overlap=1)
    rows = examples.take(np.arange(len(examples)))
    assert set(rows) == {'tokens'}
    assert len(examples) == (store.num_tokens - 1) // 16
    text = np.concatenate([rows['tokens'][:, :-1].ravel(), rows['tokens'][-1:, -1]])
    assert np.array_equal(text, store.tokens[: len(text)])
    assert examples.padding_share == 0


@pytest.mark.parametrize('name', ['windows', 'pad(truncate=True)'])
def test_labels_are_those_of_the_document(name):
    store = Store(2, sizes=[0, 5, 0, 30, 11, 0, 7, 12])
    examples = packing.build_examples(name, store, 11)
    rows = examples.take(np.arange(len(examples)))
    documents = store.documents()
    found = {(tuple(t[s > 0]), int(y)) for t, s, y in zip(*map(rows.get, FIELDS), strict=True)}
    expected = {
        (tuple(p), int(store.labels[i]))
        for i, d in enumerate(documents)
        for p in (cut(d, 11, 0) if name == 'windows' else [d[:11]] if d else [])
    }
    assert found == expected
    assert examples.labelled


FIELDS = ('tokens', 'segments', 'label')


def test_pad_refuses_or_counts_long_documents():
    store = Store(0, sizes=[5, 12, 30, 8])
    with pytest.raises(UserError, match=r'2 of 4 documents .* longer than 10 .* has 30\)'):
        packing.build_examples('pad', store, 10)
    cut_short = packing.build_examples('pad(truncate=True)', store, 10)
    assert (len(cut_short), cut_short.num_truncated) == (4, 2)
    whole = packing.build_examples('pad', store, 30)
    assert (len(whole), whole.num_truncated) == (4, 0)
    assert whole.padding_share == pytest.approx(1 - 55 / 120)


def test_first_fit_is_dense_and_quick():
    sizes = np.random.default_rng(0).integers(1, 1000, size=100_000)
    rows = assign_rows(sizes, 1024)
    filled = np.bincount(rows, weights=sizes)
    assert filled.max() <= 1024
    assert filled.sum() / (1024 * len(filled)) > 0.9


def test_mistakes():
    store = Store(0, sizes=[5])
    with pytest.raises(UserError, match=r'has 5 tokens, fewer than one row of 10'):
        packing.build_examples('stream(segments=False)', store, 10)
    with pytest.raises(UserError, match=r'Did you mean .stream.'):
        packing.build_examples('streem', store, 10)
    with pytest.raises(UserError, match=r'cannot overlap by 10'):
        packing.build_examples('stream', store, 10, overlap=10)
