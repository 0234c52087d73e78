"""Synthetic probes: their answers by hand, splits, and rows as a function of (seed, index)."""

import json

import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import open_data
from bigmodel.data.probe import ProbeRows
from bigmodel.data.probes import MARKER, PROBES
from bigmodel.data.splits import SPLITS
from bigmodel.data.tokenizers import load_tokenizer
from bigmodel.errors import UserError
from bigmodel.specs import make
from experiments import defaults

LENGTH = 33
SPECS = [
    *PROBES,
    'copying(count=5)',
    'induction(repeats=3)',
    'needle(size=2)',
    'modular(equations=4)',
]


def rows(spec: str, split: str = 'train', length: int = LENGTH) -> ProbeRows:
    return ProbeRows(make(PROBES, spec, 'data.source', split=split), length)


def taken(spec: str, split: str = 'train', length: int = LENGTH, count: int = 50):
    """Each row as (tokens, places of the answers)."""
    batch = rows(spec, split, length).take(np.arange(count))
    return [
        (t.tolist(), np.flatnonzero(w).tolist())
        for t, w in zip(batch['tokens'], batch['weights'], strict=True)
    ]


@pytest.mark.parametrize('spec', ['copying', 'copying(count=5)'])
def test_copying_repeats_what_is_before_the_marker(spec):
    for tokens, answers in taken(spec):
        marker = tokens.index(MARKER)
        assert marker == (5 if '5' in spec else 16)
        assert answers == list(range(marker + 1, 2 * marker + 1))
        assert tokens[marker + 1 : 2 * marker + 1] == tokens[:marker]


def test_sorting_orders_what_is_before_the_marker():
    for tokens, answers in taken('sorting'):
        assert tokens[17:] == sorted(tokens[:16])
        assert tokens[16] == MARKER and answers == list(range(17, 33))


def test_selective_copying_drops_the_noise():
    places = set()
    for tokens, answers in taken('selective_copying(count=4)'):
        marker = tokens.index(MARKER)
        content = [t for t in tokens[:marker] if t]
        assert len(content) == 4 and answers == list(range(marker + 1, LENGTH))
        assert tokens[marker + 1 :] == content
        places.add(tuple(np.flatnonzero(tokens[:marker])))
    assert len(places) > 40


@pytest.mark.parametrize('repeats', [1, 3])
def test_induction_asks_for_what_followed_the_marker_first(repeats):
    for tokens, answers in taken(f'induction(repeats={repeats})'):
        places = [i for i, t in enumerate(tokens) if t == MARKER]
        assert len(places) == repeats + 1 and places[-1] == LENGTH - 2
        assert answers == [p + 1 for p in places[1:]]
        assert {tokens[p + 1] for p in places} == {tokens[places[0] + 1]}


def test_mqar_asks_for_the_value_of_every_key():
    for tokens, answers in taken('mqar(pairs=4, keys=8, values=8)'):
        memory = dict(zip(tokens[0:8:2], tokens[1:8:2], strict=True))
        assert len(memory) == 4 and all(1 <= k <= 8 < v <= 16 for k, v in memory.items())
        assert sorted(tokens[a - 1] for a in answers) == sorted(memory)
        assert all(tokens[a] == memory[tokens[a - 1]] for a in answers)
        asked = {a - 1 for a in answers} | set(answers)
        assert all(t == 0 for i, t in enumerate(tokens) if i >= 8 and i not in asked)


def test_modular_adds():
    for tokens, answers in taken('modular(modulus=7, terms=3)'):
        assert answers == [4, 9, 14, 19, 24, 29]
        for a in answers:
            assert tokens[a - 1] == 7
            assert tokens[a] == sum(tokens[a - 4 : a - 1]) % 7


@pytest.mark.parametrize(('shallowest', 'deepest'), [(0.0, 1.0), (0.0, 0.0), (0.5, 0.75)])
def test_the_needle_is_where_it_was_asked_to_be(shallowest, deepest):
    spec = f'needle(size=3, shallowest={shallowest}, deepest={deepest})'
    found = set()
    for tokens, answers in taken(spec, count=200):
        first, second = (i for i, t in enumerate(tokens) if t == MARKER)
        assert second == LENGTH - 4 and answers == [30, 31, 32]
        assert tokens[second + 1 :] == tokens[first + 1 : first + 4]
        assert int(26 * shallowest) <= first <= min(26 * deepest, 25)
        found.add(first)
    assert len(found) >= 0.8 * 26 * (deepest - shallowest)


@pytest.mark.parametrize('spec', SPECS)
def test_a_row_is_a_function_of_seed_split_and_index(spec):
    one = rows(spec)
    batch = one.take(np.array([7, 123_456, 7]))
    again = rows(spec).take(np.array([123_456]))
    for key, values in batch.items():
        assert values.shape == (3, LENGTH)
        assert (values[1] == again[key][0]).all() and (values[0] == values[2]).all()
    assert batch['tokens'].max() < one.probe.num_symbols and batch['tokens'].min() >= 0
    text = ''.join(one.tokenizer.characters[t] for t in batch['tokens'][0])
    assert (one.tokenizer.encode(text) == batch['tokens'][0]).all()


@pytest.mark.parametrize('spec', SPECS)
def test_splits_and_seeds_have_rows_of_their_own(spec):
    def texts(split: str, seed: int = 0) -> set[bytes]:
        probe = make(PROBES, spec, 'data.source', split=split)
        other = type(probe)(**{**vars(probe), 'seed': seed})
        return {t.tobytes() for t in ProbeRows(other, LENGTH).take(np.arange(64))['tokens']}

    sets = [*(texts(split) for split in SPLITS), texts('train', seed=1)]
    assert sum(map(len, sets)) == len(set.union(*sets)) > 4 * 60


@pytest.mark.parametrize('spec', SPECS)
def test_the_shortest_row_fits_and_a_shorter_one_is_refused(spec):
    least = rows(spec).probe.least
    batch = rows(spec, length=least).take(np.arange(5))
    assert batch['tokens'].shape == (5, least) and batch['weights'].sum(1).all()
    assert not batch['weights'][:, 0].any()  # nothing is before it to predict it from
    with pytest.raises(UserError, match=f'data.seq_len at least {least - 1}'):
        rows(spec, length=least - 1)


def test_rows_stay_what_they_were():
    """Golden: a change of the rows needs a new VERSION."""
    tokens, answers = taken('mqar(pairs=2, keys=4, values=4)', length=12)[3]
    assert tokens == [1, 5, 4, 5, 1, 5, 4, 5, 0, 0, 0, 0]
    assert answers == [5, 7]


def test_random_numbers_are_even():
    draws = Draws(np.arange(2000, dtype=np.uint64))
    counts = np.bincount(draws.below(10, 10).ravel(), minlength=10)
    assert (abs(counts - 2000) < 5 * 42).all()  # five standard deviations
    assert abs(draws.unit(10).mean() - 0.5) < 5 * 0.29 / np.sqrt(20_000)
    places = draws.distinct(6, 3)
    assert all(len(set(p)) == 3 for p in places.tolist())
    assert (abs(np.bincount(places.ravel()) - 1000) < 5 * 26).all()


def config(source: str):
    c = defaults.get_config().data
    c.source, c.batch_size = source, 8
    return c


def test_batches_resume_by_step_and_split_among_hosts():
    def batches(**hosts):
        return open_data(config('mqar'), 'train', length=LENGTH, overlap=1, seed=3, **hosts).batches

    whole = batches()(1_000)
    halves = [batches(host_rows=rows)(1_000) for rows in np.split(np.arange(8), 2)]
    for key, values in whole.items():
        assert (np.concatenate([h[key] for h in halves]) == values).all()


def test_evaluation_rows_are_all_there_once():
    c = config('mqar(held_out=20)')
    data = open_data(c, 'validation', length=LENGTH, overlap=1, shuffle=False)
    assert data.batches.num_batches == 3
    assert data.batches(2)['valid'].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert not data.batches(2)['weights'][4:].any()


def test_the_tokenizer_is_saved_like_any_other(tmp_path):
    tokenizer = rows('mqar(keys=200, values=200)').tokenizer
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size == 401


def test_the_fingerprint_is_of_the_arguments_and_the_same_for_all_splits():
    assert rows('mqar').fingerprint == rows('mqar', 'test').fingerprint
    others = {rows(s).fingerprint for s in ('mqar', 'mqar(pairs=7)', 'mqar(seed=1)', 'copying')}
    assert len(others) == 4 and json.dumps(sorted(others))


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('mqar(pairs=9, keys=8)', 'pairs=9 need as many different keys, not 8'),
        ('mqar(pairs=0)', 'must be positive'),
        ('mqar(pears=3)', "Did you mean 'pairs'"),
        ('needle(shallowest=0.8, deepest=0.2)', 'the first at most the second'),
    ],
)
def test_bad_arguments_are_refused(source, message):
    with pytest.raises(UserError, match=message):
        open_data(config(source), 'train', length=LENGTH)


def test_other_splits_and_labels_are_refused():
    with pytest.raises(UserError, match='unknown split of data'):
        open_data(config('mqar'), 'dev', length=LENGTH)
    with pytest.raises(UserError, match='needs labels'):
        open_data(config('mqar'), 'train', length=LENGTH, labelled=True)
