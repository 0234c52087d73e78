"""Where words begin, for every tokenizer, by hand."""

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers

from bigmodel.data import utf8_pieces, words
from bigmodel.data.hf_tokenizer import HfTokenizer
from bigmodel.data.plain_tokenizers import ByteTokenizer, CharTokenizer


def split(tokenizer, pieces: list[str]) -> str:
    """The pieces, with a bar before those that begin a word."""
    ids = np.array([[tokenizer._vocabulary[p] for p in pieces]])
    begins = tokenizer.word_starts(ids)[0]
    return ''.join('|' * bool(b) + p for b, p in zip(begins, pieces, strict=True))


def test_bytes_and_characters() -> None:
    text = 'it is fox_2 (été)'
    for tokenizer, units in ((CharTokenizer(''.join(sorted(set(text)))), text),):
        begins = tokenizer.word_starts(tokenizer.encode(text)[None])[0]
        said = ''.join('|' * bool(b) + c for b, c in zip(begins, units, strict=True))
        assert said == '|it| |is| |fox|_|2| |(|été|)'
    ids = np.array([[256, *text.encode(), 257, 300]])
    begins = ByteTokenizer().word_starts(ids)[0]
    # The document's marks and ids of a task are words of their own; é is two bytes.
    want = [1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    assert begins.astype(int).tolist() == want


# As read by a person: marks of vowels and accents belong to their letters, emoji and the characters
# of scripts without spaces are alone.
SCRIPTS = [
    '|he| |我|爱|你|们|2|，|ok',
    '|привет|,| |мир|!| |Ёж5',
    '|😀|🎉|a|👍|🏽',
    '|ich| |❤\ufe0f|dich',
    '|カ|タ|か|な|と|漢|字',
    '|한국어| |문장',
    '|नमस्ते| |दुनिया',
    '|ที่|นี่',
    '|e\u0301te\u0301| |étés',
]


@pytest.mark.parametrize('barred', SCRIPTS)
def test_words_of_any_script_whatever_the_tokens_are(barred: str) -> None:
    """Bytes, characters, and byte-level pieces that cut characters."""
    text, words_of = barred.replace('|', ''), barred.split('|')[1:]
    chars = CharTokenizer(''.join(sorted(set(text))))
    begins = chars.word_starts(chars.encode(text)[None])[0]
    assert np.flatnonzero(begins).tolist() == starts(words_of, len)
    ids = np.array([list(text.encode())])
    in_bytes = starts(words_of, lambda word: len(word.encode()))
    assert np.flatnonzero(ByteTokenizer().word_starts(ids)[0]).tolist() == in_bytes
    # Pieces of three bytes begin a word where their first byte does.
    named = {b: c for c, b in words._byte_of_character().items()}
    pieces = [''.join(named[b] for b in text.encode()[i : i + 3]) for i in range(0, ids.size, 3)]
    vocabulary = {p: i for i, p in enumerate(dict.fromkeys(pieces))}
    made = hf.Tokenizer(models.BPE(vocabulary, []))
    made.decoder = hf.decoders.ByteLevel()
    found = HfTokenizer(made.to_str()).word_starts(np.array([[vocabulary[p] for p in pieces]]))
    assert [3 * i for i in np.flatnonzero(found[0])] == [i for i in in_bytes if i % 3 == 0]


def starts(words_of: list[str], size) -> list[int]:
    return [0, *np.cumsum([size(word) for word in words_of])[:-1].tolist()]


def test_bytes_of_no_character_stay_together_and_rows_apart() -> None:
    """A row may begin and end inside of a character, and bytes need not be UTF-8."""
    whole = '中文'.encode()
    rows = np.array([list(whole[:4]), list(whole[2:]), [255, 97, 0xC3, 0xC3]])
    want = [[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert ByteTokenizer().word_starts(rows).astype(int).tolist() == want


@pytest.mark.parametrize('size', [2, 3, 4])
def test_characters_are_those_of_pythons_decoder(size: int) -> None:
    """Every length of UTF-8, between bytes that are none."""
    low, high = {2: (0x80, 0x7FF), 3: (0x800, 0xFFFF), 4: (0x10000, 0x10FFFF)}[size]
    codes = [c for c in np.linspace(low, high, 97, dtype=int) if not 0xD800 <= c < 0xE000]
    stream = np.array([b for c in codes for b in (0x80, *chr(c).encode())])
    found = utf8_pieces.characters(stream).reshape(-1, size + 1)
    assert (found[:, 0] == utf8_pieces.STRAY).all() and (found[:, 1] == codes).all()
    assert (found[:, 2:] == utf8_pieces.INSIDE).all()


def test_pieces_of_berts_vocabulary() -> None:
    vocabulary = {
        w: i for i, w in enumerate(['[UNK]', 'un', '##affa', '##ble', 'walk', '##s', '.'])
    }
    tokenizer = HfTokenizer(hf.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]')).to_str())
    pieces = ['un', '##affa', '##ble', 'walk', 'un', '##s', '.', '[UNK]']
    assert split(tokenizer, pieces) == '|un##affa##ble|walk|un##s|.|[UNK]'


def test_pieces_of_bytes_and_of_spaces() -> None:
    names = ['fox', 'Ġju', 'mps', 'Ġ(', 'Ġ', 'Ċ', 'Ã', '©', ').', '2', '<|endoftext|>']
    vocabulary = {w: i for i, w in enumerate(names)}
    made = hf.Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    order = ['fox', 'Ġju', 'mps', '2', 'Ġ(', 'Ã', '©', ').', 'Ċ', 'fox', '<|endoftext|>', 'mps']
    said = split(HfTokenizer(made.to_str()), order)
    assert said == '|fox|Ġjumps2|Ġ(|Ã©|).|Ċ|fox|<|endoftext|>|mps'
    pieces = {w: i for i, w in enumerate(['▁the', '▁fo', 'x', '▁', '!', 'es'])}
    plain = HfTokenizer(hf.Tokenizer(models.BPE(pieces, [])).to_str())
    assert split(plain, ['▁the', '▁fo', 'x', 'es', '!', 'x', '▁', 'es']) == '|▁the|▁foxes|!|x|▁|es'


def test_bytes_are_written_as_the_library_writes_them() -> None:
    assert set(words._byte_of_character()) == set(pre_tokenizers.ByteLevel.alphabet())
    made = hf.Tokenizer(models.BPE({}, []))
    made.decoder = hf.decoders.ByteLevel()
    for character, byte in words._byte_of_character().items():
        if byte < 128:
            assert made.decoder.decode([character]) == chr(byte)


@pytest.mark.parametrize('size', [0, 3])
def test_rows_of_any_length(size: int) -> None:
    assert ByteTokenizer().word_starts(np.full((2, size), 97)).sum() == 2 * bool(size)
