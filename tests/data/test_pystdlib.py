"""The embedded data set: deterministic, split by file, every label in every split."""

import collections
import random

import pytest

from bigmodel.data import sources
from bigmodel.data.datasets import stdlib_files
from bigmodel.data.splits import SPLITS


@pytest.fixture(scope='module')
def documents():
    return stdlib_files.documents()


def test_is_real_text_of_some_size(documents):
    assert len(documents) > 400
    assert 5e6 < sum(len(d.text) for d in documents) < 3e7
    assert all(d.text.strip() for d in documents)
    assert not any('/test/' in d.path or d.path.startswith('_sysconfig') for d in documents)


def test_documents_and_fingerprint_are_deterministic(documents):
    again = stdlib_files.documents()
    assert again == documents
    assert stdlib_files.fingerprint(again) == stdlib_files.fingerprint(documents)


def test_fingerprint_covers_content_labels_and_paths(documents):
    seen = {stdlib_files.fingerprint(documents)}
    first, *rest = documents
    for change in ({'text': first.text + ' '}, {'path': 'x.py'}, {'label': 'idle'}):
        seen.add(stdlib_files.fingerprint([first._replace(**change), *rest]))
    assert len(seen) == 4


def test_every_label_is_in_every_split_with_enough_to_learn_from(documents):
    counts = collections.Counter()
    for document, split in zip(documents, stdlib_files.split_of(documents), strict=True):
        counts[document.label, split] += len(document.text)
    for label in stdlib_files.LABELS:
        assert all(counts[label, split] for split in SPLITS), label
        assert counts[label, 'train'] > 100_000, label


def test_a_document_keeps_its_split_when_others_go(documents):
    before = dict(zip(documents, stdlib_files.split_of(documents), strict=True))
    kept = random.Random(0).sample(documents, len(documents) - 20)
    after = dict(zip(kept, stdlib_files.split_of(kept), strict=True))
    assert sum(before[d] != after[d] for d in kept) < 20


def test_quick_key_is_stable():
    assert stdlib_files.quick_key() == stdlib_files.quick_key()


def test_source_gives_back_every_document_once(documents, stdlib_config):
    expected = collections.Counter(
        (split, d.text, stdlib_files.LABELS.index(d.label))
        for d, split in zip(documents, stdlib_files.split_of(documents), strict=True)
    )
    found = collections.Counter()
    for split in SPLITS:
        source = sources.build_source(stdlib_config, split)
        rows = [source[i] for i in range(len(source))]
        found.update((split, r['text'], r['label']) for r in rows)
    assert found == expected


def test_label_names_and_fingerprint_do_not_depend_on_the_split(stdlib_config):
    built = [sources.build_source(stdlib_config, s) for s in SPLITS]
    assert {s.class_names('label') for s in built} == {stdlib_files.LABELS}
    assert len({s.fingerprint for s in built}) == 1
