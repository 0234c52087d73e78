"""Images as rows: scikit-learn's digits, and TFDS's read without TensorFlow."""

import builtins
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bigmodel.data import digits, sources, tfds_prepared
from bigmodel.data.pipeline import open_data
from bigmodel.data.plain_tokenizers import NoTokenizer
from bigmodel.data.splits import SPLITS
from bigmodel.data.tokenizers import Tokenizer, load_tokenizer
from bigmodel.errors import UserError

tfds = pytest.importorskip('tensorflow_datasets')

COUNT, HEIGHT, WIDTH = 12, 6, 8


def picture(number: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (HEIGHT, WIDTH, channels)).astype(np.uint8)


def pictures_of_any_size(number: int) -> np.ndarray:
    """A square of one colour in the middle, with black to both sides of its longer side."""
    image = np.zeros((8, 8 + 4 * (number % 3), 3), np.uint8)
    image[:, 2 * (number % 3) : 8 + 2 * (number % 3)] = (10 * number, 100, 200)
    return image


def png(pixels: np.ndarray) -> io.BytesIO:
    """As a file, because TFDS encodes arrays with TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, 'png')
    file.seek(0)
    return file


class BigmodelPictures(tfds.core.GeneratorBasedBuilder):
    """A colour and a grey image of one size, one of any size, and a label."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'image': tfds.features.Image(shape=(HEIGHT, WIDTH, 3), encoding_format='png'),
            'grey': tfds.features.Image(shape=(HEIGHT, WIDTH, 1), encoding_format='png'),
            'any': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
            'depth': tfds.features.Image(
                shape=(HEIGHT, WIDTH, 1), dtype=np.uint16, encoding_format='png'
            ),
            'label': tfds.features.ClassLabel(names=['no', 'yes']),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(), 'test': self._generate_examples()}

    def _generate_examples(self):
        for i in range(COUNT):
            yield (
                i,
                {
                    'image': png(picture(i)),
                    'grey': png(picture(i, 1)),
                    'any': png(pictures_of_any_size(i)),
                    'depth': png(picture(i, 1).astype(np.uint16)),
                    'label': i % 2,
                },
            )


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('tfds'))
    BigmodelPictures(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


@pytest.fixture
def build(make_config, data_dir):
    def function(arguments, split='train'):
        spec = f'tfds_images("bigmodel_pictures", data_dir={data_dir!r}, {arguments})'
        return sources.build_row_source(make_config(source=spec), split).open(1)

    return function


def everything(rows) -> dict[str, np.ndarray]:
    return rows.take(np.arange(len(rows)))


@pytest.mark.parametrize(('field', 'channels'), [('image', 3), ('grey', 1)])
def test_tfds_images_are_the_pixels_that_were_written(build, field, channels):
    rows = build(f'image={field!r}, label="label"')
    found = everything(rows)
    assert found['image'].dtype == np.uint8 and found['label'].dtype == np.int32
    assert found['image'].shape == (COUNT, *rows.source.shape)
    want = {picture(i, channels).tobytes(): i % 2 for i in range(COUNT)}
    got = zip(found['image'], found['label'].tolist(), strict=True)
    assert {image.tobytes(): label for image, label in got} == want
    assert rows.label_names == ('no', 'yes') and rows.labelled


def test_rows_are_those_asked_for(build):
    rows = build('image="image", label="label"')
    whole, some = everything(rows), rows.take(np.array([7, 2, 7]))
    for key, values in whole.items():
        np.testing.assert_array_equal(some[key], values[[7, 2, 7]])


def test_images_of_any_size_are_scaled_and_cut_to_the_middle_square(build):
    rows = build('image="any", size=4')
    found = everything(rows)['image']
    assert found.shape == (COUNT, 4, 4, 3) and not rows.labelled
    # Two pixels make one, with some of their neighbours: black reaches the outermost alone.
    assert (found[:, :, 1:3] == found[:, :1, 1:2]).all()
    assert sorted(found[:, 0, 1, 0].tolist()) == [10 * i for i in range(COUNT)]
    np.testing.assert_array_equal(found, found[:, :, ::-1])


def test_scaling_keeps_the_mean_of_a_square(build):
    """Halving a side averages: bilinear with the support of the larger pixels, as Pillow does."""
    big, small = (everything(build(f'image="image", size={n}'))['image'] for n in (6, 3))
    means = [x.astype(float).mean((1, 2)) for x in (big, small)]
    assert np.abs(means[0] - means[1]).max() < 12 < np.abs(means[0] - means[0].mean(0)).max()


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_files_of_another_mode_get_the_channels_of_the_data_set(build, mode):
    """Some of ImageNet's are grey or CMYK, though its images have three channels."""
    file = io.BytesIO()
    Image.new(mode, (8, 12), 100 if mode == 'L' else (155, 155, 155, 0)).save(file, 'jpeg')
    pixels = build('image="any", size=4').source._pixels(file.getvalue(), 0)
    assert pixels.shape == (4, 4, 3) and np.abs(pixels.astype(int) - 100).max() <= 2


def test_slices_are_splits_and_the_source_pickles(build):
    rows = build('image="grey", validation="train[50%:]"', 'validation')
    assert len(rows) == COUNT // 2
    again = pickle.loads(pickle.dumps(rows.source)).open(1)
    np.testing.assert_array_equal(everything(again)['image'], everything(rows)['image'])


def test_the_fingerprint_is_of_the_arguments_and_the_same_for_all_splits(build):
    base = 'image="image", label="label"'
    assert build(base).fingerprint == build(base, 'test').fingerprint
    others = [base, 'image="grey"', f'{base}, size=4', f'{base}, test="train"', 'image="image"']
    assert len({build(arguments).fingerprint for arguments in others}) == len(others)


def test_reading_needs_no_tensorflow(data_dir):
    code = (
        'import sys, numpy as np; from bigmodel.data.tfds_images import TfdsImages\n'
        f'rows = TfdsImages("train", "bigmodel_pictures", "image", data_dir={data_dir!r})\n'
        'assert rows.take(np.arange(3))["image"].shape == (3, 6, 8, 3)\n'
        'assert not {"tensorflow", "jax"} & set(sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


BAD = [
    ('label="label"', 'Its images of 8 bits: any, grey, image'),
    ('image="imag"', "Did you mean 'image'"),
    ('image="label"', "'label' of .* is no image of 8 bits"),
    ('image="depth"', "'depth' of .* is no image of 8 bits"),
    ('image="image", label="grey"', 'is no ClassLabel'),
    ('image="any"', 'of different sizes.*size=224'),
    ('image="image", size=-1', 'size=...*at least 0'),
    ('image="image", train="trane"', 'there are: .*train'),
]


@pytest.mark.parametrize(('arguments', 'message'), BAD)
def test_mistakes_name_what_is_there(build, arguments, message):
    with pytest.raises(UserError, match=message):
        everything(build(arguments))


def test_a_damaged_image_names_its_example(build):
    rows = build('image="image"')
    with pytest.raises(UserError, match='bigmodel_pictures, example 3: a damaged image'):
        rows.source._pixels(b'no picture', 3)


def test_absent_data_is_refused_with_the_way_to_it(make_config, monkeypatch):
    monkeypatch.setattr(tfds_prepared, 'reachable', lambda url: False)
    with pytest.raises(UserError, match=r'cifar10 is not prepared .* On a machine with network'):
        open_data(make_config(source='tfds_images("cifar10")'), 'train', length=1)


def test_images_without_a_label_serve_no_labelled_task(make_config, data_dir):
    spec = f'tfds_images("bigmodel_pictures", image="image", data_dir={data_dir!r})'
    with pytest.raises(UserError, match="for images label='field'"):
        open_data(make_config(source=spec), 'train', length=1, labelled=True)


def digit_rows(make_config, arguments: str = '', split: str = 'train'):
    config = make_config(source=f'digits({arguments})')
    return sources.build_row_source(config, split).open(17)


def test_digits_are_scikit_learns(make_config):
    from sklearn.datasets import load_digits

    found = [everything(digit_rows(make_config, split=split)) for split in SPLITS]
    sizes = [len(f['label']) for f in found]
    assert sizes == [1257, 180, 360] and sum(sizes) == 1797
    assert all(f['image'].shape[1:] == (8, 8, 1) and f['image'].dtype == np.uint8 for f in found)
    original = load_digits()
    want = {(x.tobytes(), int(y)) for x, y in zip(original.images, original.target, strict=True)}
    back = [(np.rint(f['image'][..., 0] * (16 / 255)), f['label']) for f in found]
    got = [{(x.tobytes(), int(y)) for x, y in zip(*f, strict=True)} for f in back]
    assert set.union(*got) == want
    assert sum(map(len, got)) == len(want)  # no digit is in two splits


def test_digits_stay_in_their_split(make_config):
    """Golden: a change of the rows needs a new VERSION."""
    rows = digit_rows(make_config, split='validation')
    assert rows.take(np.arange(8))['label'].tolist() == [3, 6, 5, 1, 7, 8, 0, 7]
    smaller = digit_rows(make_config, 'validation=0.05', 'validation')
    whole = {x.tobytes() for x in everything(rows)['image']}
    assert {x.tobytes() for x in everything(smaller)['image']} < whole


@pytest.mark.parametrize(
    ('arguments', 'split', 'message'),
    [
        ('', 'dev', "unknown split of data.source 'dev'"),
        ('validation=0.0', 'validation', r'digits\(validation=0.0\) has no split'),
        ('validation=0.6, test=0.5', 'train', 'their sum below 1'),
        ('validation=1.5', 'train', r'must be in \[0, 1\)'),
        ('valid=0.1', 'train', "Did you mean 'validation'"),
    ],
)
def test_bad_digits_are_refused(make_config, arguments, split, message):
    with pytest.raises(UserError, match=message):
        digit_rows(make_config, arguments, split)


def test_missing_scikit_learn_says_what_to_install(make_config, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    digits.read.cache_clear()
    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match='pip install scikit-learn'):
        open_data(make_config(source='digits'), 'train', length=17)


def test_batches_are_split_among_hosts_and_evaluation_sees_every_digit_once(make_config):
    def opened(split='train', **options):
        return open_data(make_config(source='digits', batch_size=8), split, length=17, **options)

    whole = opened(seed=3).batches(100)
    halves = [opened(seed=3, host_rows=r).batches(100) for r in np.split(np.arange(8), 2)]
    for key, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([h[key] for h in halves]), values)
    data = opened('validation', shuffle=False)
    batches = [data.batches(i) for i in range(data.batches.num_batches)]
    assert sum(b['valid'].sum() for b in batches) == 180
    assert not batches[-1]['image'][4:].any()
    assert data.about == 'digits: 180 images of 8×8×1, 10 labels'


def test_data_without_text_has_a_tokenizer_without_tokens(make_config, tmp_path):
    tokenizer = open_data(make_config(source='digits'), 'train', length=17).tokenizer
    assert isinstance(tokenizer, Tokenizer) and tokenizer.vocab_size == 0
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == NoTokenizer() == tokenizer
    assert tokenizer.decode([1, 2]) == ''
    with pytest.raises(UserError, match='holds no text'):
        tokenizer.encode('a')
