"""Tokenizers: round trips, specials, saving, and mistakes."""

import json
import pathlib
import pickle
import sys

import numpy as np
import pytest

from bigmodel.data import tokenizers
from bigmodel.data.documents import Documents
from bigmodel.data.formats import Text
from bigmodel.data.hf_tokenizer import HfTokenizer
from bigmodel.data.source import Source
from bigmodel.errors import UserError

TEXTS = ['', 'plain', 'été 中文 🙂\n\ttabs  and   spaces\r\n', '\x00\x7f', 'a<|endoftext|>b</s>']


class Texts(Source):
    """A source of the texts above, repeated."""

    name, split, fingerprint = 'repeated', 'train', 'repeated'

    def quick_key(self):
        return ''

    def __len__(self):
        return 8 * len(TEXTS)

    def __getitem__(self, index):
        return {'text': TEXTS[index % len(TEXTS)]}


def repeated() -> Documents:
    return Documents(Texts(), Text())


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
    path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
    return tokenizers.train_bpe(repeated(), 280, str(path)), str(path)


@pytest.fixture(scope='module')
def sentencepiece_file(tmp_path_factory):
    """A small model that keeps all white space, with bytes for what it does not know."""
    library = pytest.importorskip('sentencepiece')
    path = tmp_path_factory.mktemp('sentencepiece') / 'tokenizer.model'
    with open(path, 'wb') as file:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20),
            model_writer=file,
            vocab_size=320,
            model_type='bpe',
            hard_vocab_limit=False,
            byte_fallback=True,
            pad_id=3,
            control_symbols=['<|im_start|>', '<|im_end|>'],
            normalization_rule_name='identity',
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            minloglevel=2,
        )
    return str(path)


def test_sentencepiece_gives_the_ids_of_its_library(sentencepiece_file):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_file)
    ours = tokenizers.build_tokenizer(f'sentencepiece({sentencepiece_file!r})')
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs.encode(text)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (1, 2, 3)
    assert ours.vocab_size == theirs.vocab_size()


def test_names_of_control_symbols_are_ids_in_special_text_alone(sentencepiece_file):
    ours = tokenizers.build_tokenizer(f'sentencepiece({sentencepiece_file!r})')
    start, end = (ours._control[name] for name in ('<|im_start|>', '<|im_end|>'))
    text = '<|im_start|>plain<|im_end|>'
    assert ours.encode(text, True).tolist() == [start, *ours.encode('plain'), end]
    assert not {start, end} & set(ours.encode(text).tolist())
    assert ours.decode(ours.encode(text)) == text and ours.decode([start, end, 1, 2, 3]) == ''


def test_specials_of_a_sentencepiece_model_can_be_chosen(sentencepiece_file, tmp_path):
    def build(rest, path=sentencepiece_file):
        return tokenizers.build_tokenizer(f'sentencepiece({str(path)!r}{rest})')

    assert build(', bos="", eos="<|im_end|>"').bos_id is None
    other = build(', eos="<|im_end|>"')
    assert other.eos_id == other._control['<|im_end|>']
    assert other.fingerprint != build('').fingerprint
    other.save(tmp_path)
    assert tokenizers.load_tokenizer(tmp_path).eos_id == other.eos_id
    assert build('', tmp_path).eos_id == 2  # the folder holds the model
    with pytest.raises(UserError, match=r"eos='<im_end>' is no control symbol .*There are: <s>"):
        build(', eos="<im_end>"')
    (tmp_path / 'bad.model').write_bytes(b'no')
    with pytest.raises(UserError, match='holds no SentencePiece model'):
        build('', tmp_path / 'bad.model')
    with pytest.raises(UserError, match="'nowhere' does not exist; give a model"):
        build('', 'nowhere')


def test_without_its_library_the_install_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sentencepiece', None)
    (tmp_path / 'tokenizer.model').write_bytes(b'')
    with pytest.raises(UserError, match='pip install sentencepiece'):
        tokenizers.build_tokenizer(f'sentencepiece({str(tmp_path)!r})')


@pytest.fixture(params=['bytes', 'chars', 'hf', 'sentencepiece'])
def tokenizer(request, bpe):
    if request.param == 'sentencepiece':
        path = request.getfixturevalue('sentencepiece_file')
        return tokenizers.build_tokenizer(f'sentencepiece({path!r})')
    if request.param == 'hf':
        return tokenizers.build_tokenizer(f'hf({bpe[1]!r})')
    return tokenizers.build_tokenizer(request.param, repeated)


@pytest.mark.parametrize('text', TEXTS)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_specials_never_come_from_text_and_vanish_in_decoding(tokenizer):
    specials = {i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None}
    ids = [int(i) for i in tokenizer.encode(TEXTS[-1])]
    assert not specials & set(ids)
    assert tokenizer.decode([*specials, *ids, *specials, 10**6]) == TEXTS[-1]


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / 'run')
    for copy in (
        tokenizers.load_tokenizer(tmp_path / 'run'),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.fingerprint == tokenizer.fingerprint
        assert np.array_equal(copy.encode(TEXTS[2]), tokenizer.encode(TEXTS[2]))
        assert (copy.bos_id, copy.eos_id, copy.vocab_size, copy.pad_id) == (
            (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size, tokenizer.pad_id)
        )


def test_fingerprints_differ(bpe):
    plain = [tokenizers.build_tokenizer(s, repeated) for s in ('bytes', 'chars')]
    hf = [bpe[0], HfTokenizer(bpe[0].text, bos='')]
    assert len({t.fingerprint for t in plain + hf}) == 4


def test_bytes_are_utf8_and_bad_bytes_are_replaced():
    tokenizer = tokenizers.build_tokenizer('bytes')
    assert tokenizer.encode('é').tolist() == [0xC3, 0xA9]
    assert tokenizer.decode([0xC3, 256, 65]) == '\ufffdA'
    assert tokenizer.vocab_size == 258


def test_chars_are_the_sorted_characters_of_the_training_text():
    tokenizer = tokenizers.build_tokenizer('chars', repeated)
    alphabet = sorted(set(''.join(TEXTS)))
    assert tokenizer.encode('plain').tolist() == [alphabet.index(c) for c in 'plain']
    with pytest.raises(UserError, match=r"'Ω' \(U\+03A9\).*data.tokenizer=bytes"):
        tokenizer.encode('plain Ω')


def test_bpe_compresses_and_has_one_special(bpe):
    tokenizer, path = bpe
    assert tokenizer.vocab_size == 280
    assert tokenizer.bos_id == tokenizer.eos_id == 0
    assert len(tokenizer.encode(TEXTS[2])) < len(TEXTS[2].encode())
    assert json.loads(pathlib.Path(path).read_text())['model']['type'] == 'BPE'
    with pytest.raises(UserError, match=r'at least 257'):
        tokenizers.train_bpe(repeated(), 100, path)


SPECIALS = [
    (['<s>', '</s>', '<pad>'], ('<s>', '</s>', '<pad>')),
    (['[PAD]', '[UNK]', '[CLS]', '[SEP]'], ('[CLS]', '[SEP]', '[PAD]')),
    (['<|begin_of_text|>', '<|end_of_text|>'], ('<|begin_of_text|>', '<|end_of_text|>', None)),
    (['</s>'], (None, '</s>', None)),
    ([], (None, None, None)),
]


@pytest.mark.parametrize('names,expected', SPECIALS)
def test_the_usual_specials_are_found(tmp_path, names, expected):
    import tokenizers as hf

    vocabulary = {name: i + 1 for i, name in enumerate(names)} | {'x': 0}
    made = hf.Tokenizer(hf.models.WordLevel(vocabulary, unk_token='x'))
    made.add_special_tokens(names)
    made.save(str(tmp_path / 'tokenizer.json'))
    found = tokenizers.build_tokenizer(f'hf({str(tmp_path)!r})')
    ids = tuple(vocabulary.get(name) for name in expected)
    assert (found.bos_id, found.eos_id, found.pad_id) == (*ids[:2], ids[2] or 0)


def test_specials_can_be_chosen(bpe):
    _, path = bpe
    assert tokenizers.build_tokenizer(f'hf({path!r}, bos="")').bos_id is None
    with pytest.raises(UserError, match=r"eos='<end>' is not in the vocabulary"):
        tokenizers.build_tokenizer(f'hf({path!r}, eos="<end>")')


def test_mistakes(tmp_path):
    with pytest.raises(
        UserError, match=r'(is not there|is no tokenizer.json); give a Hugging Face'
    ):
        tokenizers.build_tokenizer('hf("nowhere.json")')
    (tmp_path / 'tokenizer.json').write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r'not a Hugging Face tokenizer.json'):
        tokenizers.build_tokenizer(f'hf({str(tmp_path)!r})')
    with pytest.raises(UserError, match=r'Did you mean .bytes.'):
        tokenizers.build_tokenizer('byte')
    with pytest.raises(UserError, match=r'does not exist'):
        tokenizers.load_tokenizer(tmp_path / 'no')
    (tmp_path / 'tokenizer.json').write_text('{')
    with pytest.raises(UserError, match=r'is damaged'):
        tokenizers.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r'lone surrogate'):
        tokenizers.build_tokenizer('bytes').encode('\ud800')
