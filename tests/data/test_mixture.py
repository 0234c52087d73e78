"""Mixtures of sources: exact shares at every place, one sequence for all hosts, and refusals."""

import re
from fractions import Fraction

import numpy as np
import pytest

from bigmodel.data.mixture import MOST_PLACES, MixedOrder, Turns, parts_of, share_out
from bigmodel.data.opened import open_stores
from bigmodel.data.pipeline import open_data
from bigmodel.errors import UserError

WEIGHTS = [('7/10', '3/10'), ('1/3', '1/3', '1/3'), ('1/7', '2/7', '4/7'), ('1',)]


@pytest.fixture
def folders(tmp_path):
    """Two folders of text, of which one has letters alone and the other digits alone."""
    for name, alphabet in (('letters', 'abcdefgh'), ('digits', '0123456789')):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(0)
        for i in range(20):
            (folder / f'{i:02d}.txt').write_text(''.join(rng.choice(list(alphabet), 200)))
    return tmp_path


@pytest.fixture
def two(folders, make_config):
    return make_config(
        mixture=(
            f'letters: 0.7 path={folders}/letters/*.txt',
            f'digits: 0.3 path={folders}/digits/*.txt packing=stream',
        ),
        batch_size=8,
    )


def turns_of(weights):
    return Turns([Fraction(w) for w in weights])


@pytest.mark.parametrize('weights', WEIGHTS, ids='-'.join)
def test_every_period_has_the_exact_shares_well_spread(weights):
    turns = turns_of(weights)
    source, number = turns(np.arange(6 * turns.period))
    for start in (0, 1, turns.period + 2):
        here = np.bincount(source[start : start + turns.period], minlength=len(weights))
        assert here.tolist() == [Fraction(w) * turns.period for w in weights]
    for k, w in enumerate(weights):
        # Never a whole turn away from its share, and its rows are numbered 0, 1, 2, …
        behind = np.cumsum(source == k) - (np.arange(len(source)) + 1) * float(Fraction(w))
        assert np.abs(behind).max() <= 1
        assert number[source == k].tolist() == list(range((source == k).sum()))


def test_the_turns_of_seven_to_three_are_these():
    """Golden: a change of the assignment changes every run on a mixture."""
    source, number = turns_of(('7/10', '3/10'))(np.arange(8, 22))
    assert source.tolist() == [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert number.tolist() == [2, 6, 7, 3, 8, 9, 10, 4, 11, 12, 5, 13, 14, 6]


def test_weights_that_are_no_fractions_are_rounded_by_largest_remainder():
    weights = [Fraction(w) / Fraction('1.000007') for w in ('0.600001', '0.300003', '0.100003')]
    counts = share_out(weights)
    assert sum(counts) == MOST_PLACES
    exact = [float(w * MOST_PLACES) for w in weights]
    rest = MOST_PLACES - sum(int(x) for x in exact)
    most = sorted(range(3), key=lambda k: -(exact[k] % 1))[:rest]
    assert counts == [int(x) + (k in most) for k, x in enumerate(exact)]


def test_sources_have_epochs_of_their_own():
    order = MixedOrder(turns_of(('3/4', '1/4')), [30, 7], seed=5)
    rows = order(0, 28 * 4)
    of_second = rows[rows >= 30].reshape(4, 7)
    assert all(sorted(epoch) == list(range(30, 37)) for epoch in of_second)
    assert len({epoch.tobytes() for epoch in of_second}) == 4
    of_first = rows[rows < 30]
    assert sorted(of_first[:30]) == sorted(of_first[30:60]) == list(range(30))


def test_a_sequence_does_not_depend_on_how_it_is_cut():
    whole = MixedOrder(turns_of(('2/3', '1/3')), [5000, 4], seed=1)
    expected = whole(0, 12_000)
    fresh = MixedOrder(turns_of(('2/3', '1/3')), [5000, 4], seed=1)
    for start, count in ((11_000, 700), (0, 3), (4095, 2), (1, 1)):
        np.testing.assert_array_equal(fresh(start, count), expected[start : start + count])


def test_same_source_twice_has_two_orders():
    rows = MixedOrder(turns_of(('1/2', '1/2')), [50, 50], seed=0)(0, 100)
    assert not np.array_equal(rows[rows < 50], rows[rows >= 50] - 50)


@pytest.mark.parametrize('hosts', [1, 2, 4])
@pytest.mark.parametrize('batch_size', [8, 16])
def test_any_batch_size_and_host_count_give_the_same_sequence(two, hosts, batch_size):
    one = open_data(two, 'train', length=17, overlap=1, seed=3).batches
    straight = [one(step) for step in range(6)]
    two.batch_size = batch_size
    many = [
        open_data(two, 'train', length=17, overlap=1, seed=3, host_rows=rows)
        for rows in np.split(np.arange(batch_size), hosts)
    ]
    for key in straight[0]:
        want = np.concatenate([b[key] for b in straight])
        steps = range(48 // batch_size)
        got = np.concatenate([d.batches(s)[key] for s in steps for d in many])
        np.testing.assert_array_equal(got, want)
    # Any step first, as a resumed run asks.
    np.testing.assert_array_equal(
        np.concatenate([d.batches(1)['tokens'] for d in many]),
        np.concatenate([b['tokens'] for b in straight])[batch_size : 2 * batch_size],
    )


def test_rows_are_of_the_source_that_they_name(two):
    data = open_data(two, 'train', length=17, overlap=1)
    seen = [data.batches(step) for step in range(10)]
    tokens = np.concatenate([b['tokens'] for b in seen])
    origin = np.concatenate([b['origin'] for b in seen])
    assert origin.dtype == np.int32 and np.bincount(origin).tolist() == [56, 24]
    is_digit = (tokens >= ord('0')) & (tokens <= ord('9'))
    is_letter = (tokens >= ord('a')) & (tokens <= ord('h'))
    assert not is_digit[origin == 0].any() and is_letter[origin == 0].any(1).all()
    assert not is_letter[origin == 1].any() and is_digit[origin == 1].any(1).all()


def test_evaluation_reads_every_row_of_every_source_once(two):
    data = open_data(two, 'validation', length=17, overlap=1, shuffle=False)
    batches = [data.batches(i) for i in range(data.batches.num_batches)]
    valid = np.concatenate([b['valid'] for b in batches]) > 0
    origin = np.concatenate([b['origin'] for b in batches])[valid]
    assert np.bincount(origin).tolist() == [part.num_rows for part in data.parts.values()]
    stores = [part.store for part in data.parts.values()]
    assert data.store.num_bytes == sum(s.num_bytes for s in stores)
    assert data.store.num_tokens == sum(s.num_tokens for s in stores)


def test_a_mixture_of_one_is_the_source_itself(folders, make_config):
    config = make_config(path=f'{folders}/letters/*.txt')
    alone = open_data(config, 'train', length=17, overlap=1, seed=9)
    config.mixture = ('all: 5',)
    mixed = open_data(config, 'train', length=17, overlap=1, seed=9)
    for step in (0, 1, 70):
        want, got = alone.batches(step), mixed.batches(step)
        assert not got.pop('origin').any()
        assert got.keys() == want.keys()
        for key, values in want.items():
            np.testing.assert_array_equal(got[key], values)
    assert mixed.store.gzip_bits_per_byte == pytest.approx(alone.store.gzip_bits_per_byte)


def test_a_trained_tokenizer_sees_the_text_of_all_sources(two):
    two.tokenizer = 'chars'
    data = open_data(two, 'train', length=17)
    assert data.tokenizer.characters == '0123456789abcdefgh'
    stores = open_stores(two, 'train')
    assert {s.tokenizer.fingerprint for s in stores.values()} == {data.tokenizer.fingerprint}
    assert [s.newly_prepared for s in stores.values()] == [False, False]


@pytest.mark.parametrize(
    'rest', ['source=text path={folders}/letters/*.txt', 'packing=windows format=text(label=None)']
)
def test_sources_without_labels_give_minus_one(rest, folders, stdlib_config):
    mixture = 'code: 1 packing=windows', f'rest: 3 {rest.format(folders=folders)}'
    stdlib_config.mixture = mixture
    found = {'length': 17, 'labelled': True}
    data = open_data(stdlib_config, 'train', some_unlabelled=True, **found)
    batch = data.batches(0)
    assert (batch['label'][batch['origin'] == 1] == -1).all() and (batch['origin'] == 1).sum() == 3
    assert (batch['label'][batch['origin'] == 0] >= 0).all()
    assert data.label_names == data.parts['code'].store.label_names != ()
    with pytest.raises(UserError, match=r'rest of data\.mixture has none'):
        open_data(stdlib_config, 'train', **found)


def test_probes_and_images_mix_with_their_like(make_config):
    config = make_config(mixture=('easy: 1 source=copying(symbols=4)', 'hard: 1 source=copying'))
    with pytest.raises(UserError, match=r'hard has other tokens than easy'):
        open_data(config, 'train', length=16)
    config.mixture = ('easy: 1 source=copying', 'hard: 3 source=copying')
    origin = open_data(config, 'train', length=16).batches(0)['origin']
    assert origin.tolist() == [1, 1, 0, 1] or np.bincount(origin).tolist() == [1, 3]
    config.mixture = ('easy: 1 source=copying', 'text: 1 source=pystdlib')
    with pytest.raises(UserError, match=r'text has other tokens than easy: probes have symbols'):
        open_data(config, 'train', length=16)


def test_different_labels_and_fields_name_their_source(folders, make_config):
    for name, labels in (('animals', 'cat dog'), ('plants', 'oak elm')):
        lines = [f'{{"text": "{"word " * 9}", "kind": "{k}"}}' for k in labels.split() * 8]
        (folders / f'{name}.jsonl').write_text('\n'.join(lines))
    config = make_config(source='jsonl', packing='windows', batch_size=2)
    one, other = (f'{n}: 1 path={folders}/{n}.jsonl' for n in ('animals', 'plants'))
    labelled = """ 'format=text(label="kind")'"""
    config.mixture = (one + labelled, other + labelled)
    with pytest.raises(UserError, match=r'plants has the labels elm, oak, animals has the labels'):
        open_data(config, 'train', length=9)
    marked = """ 'format=prompt(prompt="text", response="kind")'"""
    config.mixture = (one, other + marked)
    with pytest.raises(UserError, match=r"plants has int32\[9\] for the field 'marks'.* nothing"):
        open_data(config, 'train', length=9)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('prose', "cannot read 'prose'; write 'name: weight key=value ...'"),
        ('prose: source=text', 'cannot read'),
        ('prose: 1 2', 'cannot read'),
        ('prose: much', 'cannot read'),
        ('prose: 1/0', 'cannot read'),
        ('prose: 1 "path=x', 'cannot read'),
        ('my-prose: 1', "the name 'my-prose' must be of letters, .* as in 'my_prose'"),
        ('1st: 1', "as in 'part_1st'"),
        (': 1', "the name '' must be of letters, digits and '_', as in 'part'"),
        ('prose: 1 source=tfds("x")', 'eats quotes inside brackets; write others around'),
        ('prose: 1 format=text(text=("a", "b"))', 'eats quotes inside brackets'),
        ("prose: 1 format=text('a', label=None)", 'eats quotes inside brackets'),
        ("""prose: 1 'source=tfd("x")'""", "prose: unknown data.source 'tfd'"),
        ('prose: 1 source=tfd(\\"x\\")', "prose: unknown data.source 'tfd'"),
        ('prose: 1 packing=first_fit() "source=tfd"', "prose: unknown data.source 'tfd'"),
        ('prose: 0', 'the weight must be positive'),
        ('prose: -1', 'the weight must be positive'),
        ('prose: 1 sorce=text', "'sorce' is not one of .* Did you mean 'source'?"),
        ('prose: 1 seq_len=3', "'seq_len' is not one of"),
        ('letters: 1', "two sources are called 'letters'"),
        ('prose: 1 path=/nowhere/*.txt', 'data.mixture: prose: .*/nowhere'),
        ('prose: 1 source=nothing', "data.mixture: prose: unknown data.source 'nothing'"),
        ('prose: 0.00001 source=pystdlib', 'prose has no row in 10,000'),
    ],
)
def test_mistakes_are_told_with_the_source(two, entry, message):
    two.mixture = (two.mixture[0], entry)
    with pytest.raises(UserError, match=message):
        open_data(two, 'train', length=17)


def test_a_source_that_is_too_small_is_refused(two, folders):
    (folders / 'short.txt').write_text('a few words ' * 5)
    two.batch_size = 64
    two.mixture = (two.mixture[0], f'short: 0.3 path={folders}/short.txt')
    with pytest.raises(UserError, match=re.escape('short has only 4 rows, of which a batch')):
        open_data(two, 'train', length=17, overlap=1)


def test_weights_are_normalised(two):
    two.mixture = tuple(re.sub(r'0\.([73])', r'\1e1', entry) for entry in two.mixture)
    weights = [part.weight for part in parts_of(two).values()]
    assert weights == [Fraction(7, 10), Fraction(3, 10)]
