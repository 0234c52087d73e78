"""Run cards on TFDS data sets read miniatures that have the features and splits of TFDS's own.

Names and types are those of TFDS 4.9.10's builders (text/glue.py, datasets/squad, …).
"""

import io
import pathlib
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

tfds = pytest.importorskip('tensorflow_datasets')
Image = pytest.importorskip('PIL.Image')

from bigmodel import config as config_lib  # noqa: E402
from bigmodel.data import tfds_prepared  # noqa: E402
from bigmodel.data.pipeline import open_data  # noqa: E402
from bigmodel.errors import UserError  # noqa: E402
from bigmodel.tasks.build import build_task  # noqa: E402
from bigmodel.training.fit import check_format  # noqa: E402
from experiments.finetune import cifar, glue, squad  # noqa: E402
from experiments.pretrain import tfds_text  # noqa: E402

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
ROWS = 100  # of each split
Text, Label = tfds.features.Text, tfds.features.ClassLabel


def glue_task(first: str, second: str = '', label: Any = ('no', 'yes')) -> dict[str, Any]:
    texts = {name: Text() for name in (first, second) if name}
    return texts | {'idx': np.int32, 'label': Label(names=label) if label else np.float32}


def answers() -> Any:
    return tfds.features.Sequence({'text': Text(), 'answer_start': np.int32})


SQUAD = {'id': np.str_, 'title': Text(), 'context': Text(), 'question': Text()}
CIFAR = {'id': Text(), 'image': tfds.features.Image(shape=(32, 32, 3))}
THREE = ('train', 'validation', 'test')
MNLI = ('train', 'validation_matched', 'validation_mismatched', 'test_matched', 'test_mismatched')
# Data set -> its features and its splits.
SETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    'glue/cola': (glue_task('sentence'), THREE),
    'glue/sst2': (glue_task('sentence'), THREE),
    'glue/mrpc': (glue_task('sentence1', 'sentence2'), THREE),
    'glue/qqp': (glue_task('question1', 'question2'), THREE),
    'glue/stsb': (glue_task('sentence1', 'sentence2', None), THREE),
    'glue/mnli': (glue_task('hypothesis', 'premise', ('yes', 'neutral', 'no')), MNLI),
    'glue/qnli': (glue_task('question', 'sentence'), THREE),
    'glue/rte': (glue_task('sentence1', 'sentence2'), THREE),
    'glue/wnli': (glue_task('sentence1', 'sentence2'), THREE),
    'imdb_reviews/plain_text': (
        {'text': Text(), 'label': Label(names=['neg', 'pos'])},
        ('train', 'test', 'unsupervised'),
    ),
    'ag_news_subset': (
        {
            'title': Text(),
            'description': Text(),
            'label': Label(names=['World', 'Sports', 'Business', 'Sci/Tech']),
        },
        ('train', 'test'),
    ),
    'squad/v1.1': (SQUAD | {'answers': answers()}, ('train', 'validation')),
    'squad/v2.0': (
        SQUAD | {'answers': answers(), 'plausible_answers': answers(), 'is_impossible': np.bool_},
        ('train', 'validation'),
    ),
    'cnn_dailymail': (dict.fromkeys(('article', 'highlights', 'id', 'publisher'), Text()), THREE),
    'c4/en': (
        dict.fromkeys(('content-length', 'content-type', 'text', 'timestamp', 'url'), Text()),
        ('train', 'validation'),
    ),
    'lm1b': ({'text': Text()}, ('train', 'test')),
    'wikipedia/20230601.en': ({'title': Text(), 'text': Text()}, ('train',)),
    'cifar10': (CIFAR | {'label': Label(num_classes=10)}, ('train', 'test')),
    'cifar100': (
        CIFAR | {'label': Label(num_classes=100), 'coarse_label': Label(num_classes=20)},
        ('train', 'test'),
    ),
}
CARDS = [
    *(f'finetune/glue.py:{name}' for name in glue.TASKS),
    *(f'finetune/squad.py:{version}' for version in squad.ROWS),
    *(f'finetune/cifar.py:{name}' for name in cifar.SETS),
    *(f'pretrain/tfds_text.py:{name}' for name in tfds_text.TEXTS),
    'finetune/cnn_dailymail.py',
]


def png(pixels: np.ndarray) -> io.BytesIO:
    """An image as a file: TFDS itself encodes with TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    file.seek(0)
    return file


def value(feature: Any, name: str, i: int, dataset: str) -> Any:
    if isinstance(feature, tfds.features.Sequence):  # where the answer is in the context
        return [{'text': str(i), 'answer_start': 8}] if i % 2 or dataset == 'squad/v1.1' else []
    if isinstance(feature, Label):
        return i % feature.num_classes
    if isinstance(feature, tfds.features.Image):
        return png(np.full((32, 32, 3), i, np.uint8))
    if feature in (np.int32, np.float32, np.bool_):
        return feature(i % 2)
    return f'{name:8}{i}'


def prepare(dataset: str, data_dir: str) -> None:
    """Writes a miniature of a data set as TFDS would."""
    features, splits = SETS[dataset]
    own, _, config = dataset.partition('/')

    class Miniature(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = own
        VERSION = tfds.core.Version('1.0.0')
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self) -> Any:
            as_dict = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=as_dict)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self) -> Any:
            for i in range(ROWS):
                yield i, {name: value(f, name, i, dataset) for name, f in features.items()}

    Miniature(data_dir=data_dir, file_format='array_record').download_and_prepare()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp('miniatures'))
    for dataset in SETS:
        prepare(dataset, folder)
    return folder


def card(name: str, tmp_path: pathlib.Path) -> ConfigDict:
    config = config_lib.load(f'{EXPERIMENTS / name}')
    config.data.tokenizer, config.data.cache_dir = 'bytes', str(tmp_path / 'cache')
    config.data.batch_size, config.data.workers = 4, 1
    return config


@pytest.mark.parametrize('name', CARDS)
def test_a_card_reads_every_split_that_it_names(name, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', data_dir)
    config = card(name, tmp_path)
    task = build_task(config.task)
    check_format(config, task)
    length, labels = config.data.seq_len + task.extra_tokens, set()
    for split in ('train', *(e.split for e in config.evals.values())):
        data = open_data(
            config.data,
            split,
            length=length,
            overlap=task.extra_tokens,
            shuffle=False,
            labelled=task.labelled,
            prepare=task.prepare,
        )
        batch = data.batches(0)
        labels |= set(batch.get('label', np.zeros(0)).tolist())
        assert data.label_names or not task.labelled or config.task == 'regression'
        if config.task == 'extractive_qa':
            signs = {0, 1} if 'unanswerable=True' in config.data.format else {1}
            assert set(np.sign(batch['start'][batch['valid'] > 0])) == signs
        if 'tokens' in batch and not config.task.startswith('seq2seq'):
            text = data.tokenizer.decode(batch['tokens'][0])
            assert any(f'{f:8}' in text for f in config.data.format.split('"')[1::2])
    assert len(labels) >= 2 or not task.labelled


def dataset_of(config: ConfigDict) -> str:
    return config.data.source.split('"')[1]


def test_every_miniature_has_a_card(tmp_path):
    assert {dataset_of(card(name, tmp_path)) for name in CARDS} == set(SETS)


@pytest.mark.parametrize('name', ['finetune/glue.py:sst3', 'finetune/squad.py:3'])
def test_an_unknown_argument_lists_those_there(name):
    with pytest.raises(UserError, match=r'are (cola, sst2|v1\.1, v2\.0)'):
        config_lib.load(f'{EXPERIMENTS / name}')


@pytest.mark.parametrize('name', CARDS)
def test_absent_data_is_refused_in_a_line_at_once(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_prepared, 'reachable', lambda url: False)
    message = 'is not prepared|preparing it needs TensorFlow|does not answer'
    with pytest.raises(UserError, match=message) as error:
        open_data(card(name, tmp_path).data, 'train', length=65)
    assert '\n' not in str(error.value)
