"""The token store: what is written, when it is written again, and what a kill leaves."""

import hashlib
import random
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from bigmodel.data import prepare, store
from bigmodel.data.documents import Documents
from bigmodel.data.formats import Text
from bigmodel.data.source import Source
from bigmodel.data.sources import build_source
from bigmodel.data.tokenizers import build_tokenizer
from bigmodel.errors import UserError


def content(folder):
    """Every file of a data set's folder, by name and hash (locks and notes of times aside)."""
    files = [f for f in folder.rglob('*') if f.is_file() and f.suffix != '.lock']
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, 'SHARD_BYTES', 200)


@pytest.mark.parametrize('tokenizer', ['bytes', 'chars'])
@pytest.mark.parametrize('shards', [1, 5])
def test_round_trip(texts, make_config, monkeypatch, tokenizer, shards):
    monkeypatch.setattr(prepare, 'SHARD_BYTES', 10**6 if shards == 1 else 150)
    config = make_config(path=f'{texts}/*', tokenizer=tokenizer)
    opened = store.open_store(config, 'train')
    source = build_source(config, 'train')
    documents = [source[i]['text'] for i in range(len(source))]
    assert (len(opened.meta['shards']) > 1) == (shards > 1)
    for i, text in enumerate(documents):
        tokens = opened.gather(np.arange(opened.offsets[i], opened.offsets[i + 1]))
        assert opened.tokenizer.decode(tokens) == text
        if tokenizer == 'bytes':
            assert (tokens[0], tokens[-1]) == (256, 257)
    sizes = [len(t.encode()) for t in documents]
    assert opened.num_documents == len(documents)
    assert opened.num_bytes == sum(sizes)
    assert opened.num_tokens == opened.offsets[-1]
    gzipped = sum(len(zlib.compress(t.encode(), 9)) for t in documents)
    assert opened.gzip_bits_per_byte == pytest.approx(8 * gzipped / sum(sizes))
    opened.verify()


def test_gzip_baseline_is_that_of_each_document_at_level_nine(stdlib_config):
    source = build_source(stdlib_config, 'validation')
    texts = [source[i]['text'].encode() for i in range(len(source))]
    bits = 8 * sum(len(zlib.compress(t, 9)) for t in texts) / sum(map(len, texts))
    opened = store.open_store(stdlib_config, 'validation')
    assert opened.gzip_bits_per_byte == pytest.approx(bits, rel=1e-12)


def test_gather_takes_any_shape_and_order_over_shards(texts, make_config, small_shards):
    opened = store.open_store(make_config(path=f'{texts}/*'), 'train')
    everything = opened.gather(np.arange(opened.num_tokens))
    some = np.random.default_rng(0).integers(opened.num_tokens, size=(7, 11))
    assert np.array_equal(opened.gather(some), everything[some])


def test_large_vocabularies_are_stored_whole(texts, make_config):
    class Large:
        vocab_size, bos_id, eos_id, pad_id, fingerprint = 100_000, None, None, 0, 'large'

        def encode(self, text):
            return np.arange(99_990, 99_990 + len(text) % 10)

        def decode(self, ids):
            return ''

        def word_starts(self, ids):
            return np.ones(ids.shape, bool)

        def save(self, folder):
            build_tokenizer('bytes').save(folder)

    opened = store.open_store(make_config(path=f'{texts}/*'), 'train', Large())
    assert opened.gather(np.arange(3)).tolist() == [99_990, 99_991, 99_992]


def test_a_store_is_reused(texts, make_config, monkeypatch):
    config = make_config(path=f'{texts}/*')
    first = store.open_store(config, 'train')
    assert first.newly_prepared

    def fail(*arguments):
        raise AssertionError('prepared again')

    monkeypatch.setattr(prepare, 'prepare', fail)
    second = store.open_store(config, 'train')
    assert not second.newly_prepared
    assert second.fingerprint == first.fingerprint
    (texts / '03.txt').touch()  # the quick key changes, the content does not
    assert store.open_store(config, 'train').fingerprint == first.fingerprint


def test_reopening_is_quick_and_imports_no_dataset_library(stdlib_config, tmp_path):
    store.open_store(stdlib_config, 'train')
    script = tmp_path / 'open.py'
    script.write_text(
        'import sys\n'
        'from ml_collections import ConfigDict\n'
        'from bigmodel.data import store\n'
        f'config = ConfigDict({stdlib_config.to_dict()!r})\n'
        'opened = store.open_store(config, "train")\n'
        'for name in ("tensorflow_datasets", "tokenizers", "grain", "jax", "tqdm"):\n'
        '    assert name not in sys.modules, name\n'
        'assert not opened.newly_prepared\n'
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr


def test_fingerprint_follows_content_tokenizer_and_code(texts, make_config, monkeypatch):
    config = make_config(path=f'{texts}/*')
    found = [store.open_store(config, 'train').fingerprint]
    found.append(
        store.open_store(make_config(path=f'{texts}/*', tokenizer='chars'), 'train').fingerprint
    )
    (texts / '03.txt').write_text('other')
    found.append(store.open_store(config, 'train').fingerprint)
    monkeypatch.setattr(prepare, 'CODE_VERSION', prepare.CODE_VERSION + 1)
    found.append(store.open_store(config, 'train').fingerprint)
    assert len(set(found)) == 4


def test_another_tokenizer_can_be_given(texts, make_config):
    config = make_config(path=f'{texts}/*', tokenizer='chars')
    opened = store.open_store(config, 'validation', build_tokenizer('bytes'))
    assert opened.tokenizer.fingerprint == 'bytes-1'


def test_unknown_characters_name_the_document(texts, make_config):
    for name, text in (('train', 'abc'), ('validation', 'abcΩ')):
        (texts / name).write_text(text)
    config = make_config(path=f'{texts}/{{split}}', tokenizer='chars')
    store.open_store(config, 'train')
    with pytest.raises(UserError, match=r"text, split 'validation', example 0: character 'Ω'"):
        store.open_store(config, 'validation')


@pytest.mark.parametrize('name', ['shard-00001.tokens', prepare.OFFSETS, prepare.LABELS])
def test_missing_and_damaged_files_are_named(texts, make_config, small_shards, name):
    config = make_config(path=f'{texts}/*')
    path = store.open_store(config, 'train').folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=f'{name} is damaged .it has .* instead of'):
        store.open_store(config, 'train')
    path.unlink()
    with pytest.raises(UserError, match=f'{name} is damaged .it is missing'):
        store.open_store(config, 'train')
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f'{name} is damaged .its content has changed'):
        store.open_store(config, 'train').verify()


def test_damaged_meta_is_named(texts, make_config):
    config = make_config(path=f'{texts}/*')
    path = store.open_store(config, 'train').folder / prepare.META
    path.write_text('{')
    with pytest.raises(UserError, match=r'meta.json is damaged'):
        store.open_store(config, 'train')


def test_processes_write_the_same_store(texts, make_config, small_shards, monkeypatch, tmp_path):
    here = store.open_store(make_config(path=f'{texts}/*', tokenizer='chars'), 'train')
    monkeypatch.setattr(prepare, 'PARALLEL_BYTES', 0)
    keys = {'path': f'{texts}/*', 'tokenizer': 'chars', 'cache_dir': str(tmp_path / 'other')}
    there = store.open_store(make_config(**keys, workers=2), 'train')
    assert content(here.folder.parent) == content(there.folder.parent)


def test_an_error_in_a_worker_is_the_users(texts, make_config, small_shards, monkeypatch):
    monkeypatch.setattr(prepare, 'PARALLEL_BYTES', 0)
    (texts / '05.txt').write_bytes(b'\xff')
    config = make_config(path=f'{texts}/*', workers=2, source='text(validation=0.0)')
    with pytest.raises(UserError, match=r'05.txt: byte 0 is not UTF-8'):
        prepare.prepare(
            Documents(_Unread(build_source(config, 'train')), Text()),
            build_tokenizer('bytes'),
            texts / 'o',
            'f',
            2,
        )


class _Unread(Source):
    """A source whose size is known without reading it, so that the worker meets the bad file."""

    name, split, fingerprint = 'text', 'train', 'unread'

    def __init__(self, source):
        self.source, self.reads = source, 0

    def quick_key(self):
        return ''

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads += 1
        return {'text': 'x' * 100} if self.reads <= len(self) else self.source[index]

    def __getstate__(self):
        return {**self.__dict__, 'reads': 10**6}


SLOW = """
import sys, time
from ml_collections import ConfigDict
from bigmodel.data import prepare, store
prepare.SHARD_BYTES = 2_000
encode = prepare._encode
def slow(*arguments):
    time.sleep(0.01)
    return encode(*arguments)
prepare._encode = slow
store.open_store(ConfigDict({config!r}), 'train')
"""


def environment():
    import os
    import pathlib

    root = pathlib.Path(store.__file__).parents[2]
    return {**os.environ, 'PYTHONPATH': str(root)}


def start(script, config):
    script.write_text(SLOW.replace('{config!r}', repr(config.to_dict())))
    return subprocess.Popen([sys.executable, str(script)], env=environment())


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / 'corpus'
    folder.mkdir()
    for i in range(100):
        (folder / f'{i}.txt').write_text(f'{i} text ' * (50 + i))
    return folder


def test_killed_preparation_resumes_to_the_same_store(corpus, make_config, tmp_path, monkeypatch):
    config = make_config(path=f'{corpus}/*')
    tokens, kept, rng = tmp_path / 'cache' / 'tokens', {}, random.Random(0)
    for _ in range(3):
        process = start(tmp_path / 'slow.py', config)
        wanted = len(kept) + rng.randint(1, 6)
        while process.poll() is None and len(list(tokens.rglob('*.npz'))) < wanted:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        shards = {n.with_suffix('.tokens') for n in tokens.rglob('shard-*.npz')}
        assert kept.items() <= {s: s.stat().st_mtime_ns for s in shards}.items()
        kept = {s: s.stat().st_mtime_ns for s in shards}
    assert not list(tokens.rglob(prepare.META))
    monkeypatch.setattr(prepare, 'SHARD_BYTES', 2_000)
    resumed = store.open_store(config, 'train')
    assert kept.items() <= {s: s.stat().st_mtime_ns for s in resumed.folder.iterdir()}.items()
    clean = store.open_store(make_config(**{**config, 'cache_dir': str(tmp_path / 'c2')}), 'train')
    assert content(resumed.folder.parent) == content(clean.folder.parent)


def test_two_processes_at_once_do_not_disturb_each_other(corpus, make_config, tmp_path):
    config = make_config(path=f'{corpus}/*')
    processes = [start(tmp_path / f'slow{i}.py', config) for i in range(2)]
    assert [p.wait(timeout=60) for p in processes] == [0, 0]
    opened = store.open_store(config, 'train')
    assert not opened.newly_prepared
    opened.verify()
