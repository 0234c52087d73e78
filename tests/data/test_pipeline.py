"""Batches as a function of (seed, step), evaluation, prefetching, and the front door."""

import collections
import threading
import time

import numpy as np
import pytest

from bigmodel.data.pipeline import Batches, open_data, prefetch
from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.errors import UserError


class Numbers:
    """Row i is the number i."""

    length, num_truncated, labelled, padding_share = 3, 0, False, 0.0
    documents = NO_DOCUMENTS

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def take(self, indices):
        assert np.all((indices >= 0) & (indices < self.count))
        tokens = np.repeat(indices[:, None], 3, axis=1).astype(np.int32)
        return {'tokens': tokens, 'segments': np.ones_like(tokens)}


def rows(batches, steps):
    return np.concatenate([batches(s)['tokens'][:, 0] for s in steps])


def test_a_batch_depends_on_seed_and_step_only():
    straight = Batches(Numbers(50), 8, seed=3)
    expected = [straight(s) for s in range(30)]
    jumping = Batches(Numbers(50), 8, seed=3)
    for step in np.random.default_rng(0).permutation(30):
        for key, values in jumping(int(step)).items():
            assert np.array_equal(values, expected[step][key])
    other = Batches(Numbers(50), 8, seed=4)
    assert not np.array_equal(rows(other, range(6)), rows(straight, range(6)))


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('hosts', [2, 4, 8])
def test_hosts_slice_the_same_global_batch(hosts, shuffle):
    one = Batches(Numbers(50), 8, 0, shuffle)
    many = [Batches(Numbers(50), 8, 0, shuffle, rows) for rows in np.split(np.arange(8), hosts)]
    for step in range(one.num_batches):
        parts = [b(step) for b in many]
        for key, values in one(step).items():
            assert np.array_equal(np.concatenate([p[key] for p in parts]), values)


def test_a_host_may_read_rows_that_are_no_neighbours():
    for shuffle in (True, False):
        one = Batches(Numbers(50), 8, 0, shuffle)
        some = Batches(Numbers(50), 8, 0, shuffle, np.array([1, 2, 7]))
        for key, values in one(6).items():
            assert np.array_equal(some(6)[key], values[[1, 2, 7]])


def test_each_row_comes_once_an_epoch_and_epochs_differ():
    batches = Batches(Numbers(48), 8, seed=1)
    epochs = [rows(batches, range(6 * e, 6 * e + 6)) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert len({e.tobytes() for e in epochs}) == 3
    uneven = rows(Batches(Numbers(50), 8, seed=1), range(25))  # four epochs
    assert set(collections.Counter(uneven).values()) == {4}


def test_evaluation_sees_every_row_once_in_order():
    batches = Batches(Numbers(50), 8, shuffle=False)
    assert batches.num_batches == 7
    seen = [batches(s) for s in range(7)]
    valid = np.concatenate([b['valid'] for b in seen])
    found = np.concatenate([b['tokens'][:, 0] for b in seen])
    assert np.array_equal(found[valid > 0], np.arange(50))
    assert valid.dtype == np.float32 and valid.sum() == 50
    assert np.all(seen[-1]['segments'][2:] == 0) and np.all(seen[-1]['tokens'][2:] == 0)
    with pytest.raises(IndexError):
        batches(7)


def test_evaluation_may_be_smaller_than_a_batch_and_training_not():
    small = Batches(Numbers(3), 8, shuffle=False)(0)
    assert small['valid'].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r'only 3 rows'):
        Batches(Numbers(3), 8)
    with pytest.raises(UserError, match=r'batch_size=0'):
        Batches(Numbers(30), 0)


def prefetchers():
    return [t for t in threading.enumerate() if t.name == 'prefetch']


def test_prefetch_yields_the_same_batches():
    batches = Batches(Numbers(50), 8)
    for step, batch in enumerate(prefetch(batches, 3, 9), 3):
        assert np.array_equal(batch['tokens'], batches(step)['tokens'])
    assert step == 8
    assert not prefetchers()


def test_prefetch_raises_what_the_thread_raised():
    def fail(step):
        if step == 2:
            raise UserError('shard is damaged')
        return {}

    found = prefetch(fail, 0, 5)
    assert next(found) == next(found) == {}
    with pytest.raises(UserError, match=r'shard is damaged'):
        next(found)
    assert not prefetchers()


def test_prefetch_stays_ahead_by_depth_and_ends_with_its_generator():
    asked = []
    found = prefetch(lambda step: asked.append(step) or {}, 0, 10**9, depth=3)
    next(found)
    time.sleep(0.3)
    assert 3 <= len(asked) <= 5
    found.close()
    assert not prefetchers()


@pytest.mark.parametrize('packing', ['stream', 'first_fit', 'windows', 'pad(truncate=True)'])
def test_front_door_on_the_embedded_data(stdlib_config, packing):
    stdlib_config.packing = packing
    overlap = 0 if packing.startswith('pad') else 1
    train = open_data(stdlib_config, 'train', length=17, overlap=overlap)
    batch = train.batches(0)
    assert batch['tokens'].shape == batch['segments'].shape == (4, 17)
    assert batch['tokens'].max() < train.tokenizer.vocab_size == train.store.vocab_size
    assert ('label' in batch) == (packing.startswith(('windows', 'pad')))
    validation = open_data(stdlib_config, 'validation', length=17, shuffle=False)
    assert validation.fingerprint == train.fingerprint
    assert validation.label_names == train.label_names != ()
    assert 1.5 < validation.store.gzip_bits_per_byte < 3


def test_labels_are_demanded_or_explained(stdlib_config, texts, make_config):
    stdlib_config.packing = 'windows'
    assert 'label' in open_data(stdlib_config, 'train', length=16, labelled=True).batches(0)
    stdlib_config.packing = 'stream'
    with pytest.raises(UserError, match=r"packing='stream' mixes documents"):
        open_data(stdlib_config, 'train', length=16, labelled=True)
    config = make_config(path=f'{texts}/*', packing='windows')
    with pytest.raises(UserError, match=r"source='text' has none"):
        open_data(config, 'train', length=16, labelled=True)
