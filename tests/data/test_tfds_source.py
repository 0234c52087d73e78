"""TFDS data sets: our own small one, and those that are not there."""

import pickle
import time

import numpy as np
import pytest

tfds = pytest.importorskip('tensorflow_datasets')

from bigmodel.data import sources, tfds_prepared  # noqa: E402
from bigmodel.data.pipeline import open_data  # noqa: E402
from bigmodel.errors import UserError  # noqa: E402

ROWS = 40


class BigmodelProbe(tfds.core.GeneratorBasedBuilder):
    """Two texts and a label; test is unlabelled, as in many benchmarks."""

    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
        features = {
            'sentence': tfds.features.Text(),
            'other': tfds.features.Text(),
            'label': tfds.features.ClassLabel(names=['no', 'yes']),
            'score': tfds.features.Scalar(np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(True), 'test': self._generate_examples(False)}

    def _generate_examples(self, labelled=True):
        for i in range(ROWS):
            label = i % 2 if labelled else -1
            yield i, {'sentence': f'é {i}', 'other': f'o {i}', 'label': label, 'score': 0.5}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('tfds'))
    BigmodelProbe(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


@pytest.fixture
def build(make_config, data_dir):
    def function(text, split='train', **slices):
        spec = f'tfds("bigmodel_probe", data_dir={data_dir!r}, **slices)'
        spec = spec.replace('**slices', ', '.join(f'{k}={v!r}' for k, v in slices.items()))
        return sources.build_documents(make_config(source=spec, format=f'text({text})'), split)

    return function


def text_of(documents):
    (((((text, _, _),),), _),) = documents
    return text


def test_reads_text_and_label(build):
    source = build('text="sentence", label="label"')
    found = {(text_of(source[i]), source[i][0].label) for i in range(len(source))}
    assert found == {(f'é {i}', i % 2) for i in range(ROWS)}
    assert source.label_names == ('no', 'yes')


def test_several_texts_are_joined(build):
    text = text_of(build('text=("sentence", "other")')[0])
    assert text == f'é {text.split()[-1]}\no {text.split()[-1]}'


def test_slices_are_splits(build):
    direct = build('text="other"', 'train[90%:]')
    mapped = build('text="other"', 'validation', validation='train[90%:]')
    assert len(direct) == len(mapped) == 4
    assert [direct[i] for i in range(4)] == [mapped[i] for i in range(4)]


def test_survives_pickling(build):
    source = build('text="other"')
    first = source[0]
    assert pickle.loads(pickle.dumps(source))[0] == first


def test_a_prepared_folder_can_be_named(build, make_config, data_dir):
    config = make_config(source=f'tfds("{data_dir}/bigmodel_probe/1.2.0")', format='text("other")')
    assert sources.build_documents(config, 'train')[0] == build('text="other"')[0]


BAD = [
    ('label="label"', 'train', 'Its text features: other, sentence'),
    (
        'text="sentense"',
        'train',
        "Did you mean 'sentence'.*Fields there: label, other, score, sent",
    ),
    ('text="score"', 'train', 'but must be a string'),
    ('text="other", label="score"', 'train', 'is no ClassLabel'),
    ('text="other"', 'validation', 'there are: train, test'),
    ('text="other"', 'train[90:', 'there are: train, test'),
]


@pytest.mark.parametrize('arguments,split,message', BAD)
def test_mistakes_name_what_is_there(build, arguments, split, message):
    with pytest.raises(UserError, match=message):
        documents = build(arguments, split)
        assert documents.label_names is not None and documents[0]


def test_an_unlabelled_split_is_refused_when_labels_are_asked_for(make_config, data_dir):
    spec = f'tfds("bigmodel_probe", data_dir={data_dir!r})'
    config = make_config(source=spec, format='text("other", label="label")')
    with pytest.raises(UserError, match=r"field 'label' is -1, but must be a class, which"):
        open_data(config, 'test', length=8)


def test_tfrecord_files_are_refused_with_the_way_out(tmp_path, make_config):
    folder = tmp_path / 'tfds' / 'old' / '1.0.0'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"name": "old", "version": "1.0.0"}')
    source = sources.build_source(make_config(source='tfds("old")'), 'train')
    with pytest.raises(UserError, match=r'tfrecord.*pip install tensorflow-cpu'):
        len(source)


def test_the_newest_version_is_read_and_several_configs_are_refused(tmp_path):
    for version in ('1.9.0', '1.10.0'):
        (tmp_path / 'tfds' / 'a' / version).mkdir(parents=True)
        (tmp_path / 'tfds' / 'a' / version / 'dataset_info.json').write_text('{}')
    assert tfds_prepared.folder('a', '').name == '1.10.0'
    assert tfds_prepared.folder('a:1.9.0', '').name == '1.9.0'
    for config in ('x', 'y'):
        (tmp_path / 'tfds' / 'b' / config / '1.0.0').mkdir(parents=True)
        (tmp_path / 'tfds' / 'b' / config / '1.0.0' / 'dataset_info.json').write_text('{}')
    assert tfds_prepared.folder('b/y', '').parent.name == 'y'
    with pytest.raises(UserError, match=r'one of b/x, b/y; say which'):
        tfds_prepared.folder('b', '')


ABSENT = [
    ('imdb_reviews', 'does not answer from here. On a machine with network access run: python'),
    ('nosuchdataset', 'TFDS has no data set of this name'),
    ('imdb_review', "Did you mean 'imdb_reviews'"),
]


@pytest.mark.parametrize('name,message', ABSENT)
def test_absent_data_is_refused_at_once(make_config, monkeypatch, name, message):
    monkeypatch.setattr(tfds_prepared, 'reachable', lambda url: False)
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        open_data(make_config(source=f'tfds("{name}")'), 'train', length=8)
    assert time.monotonic() - start < 5


def test_a_builder_that_needs_tensorflow_says_so(make_config, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    error = tfds_prepared._not_found('glue/sst2', '')
    assert 'pip install tensorflow-cpu' in str(error)
    assert 'glue/sst2' in str(error)


def test_the_probe_gives_up_quickly():
    start = time.monotonic()
    assert not tfds_prepared.reachable('http://192.0.2.1/')  # reserved: nothing answers there
    assert time.monotonic() - start < tfds_prepared.PROBE_SECONDS + 2


def test_the_probe_finds_a_host_that_answers():
    import http.server
    import threading

    server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # The handler answers HEAD with 501: an answer all the same.
        assert tfds_prepared.reachable(f'http://127.0.0.1:{server.server_port}/x')
    finally:
        server.shutdown()
        server.server_close()
