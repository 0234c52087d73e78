"""Where words begin, for every tokenizer, by hand."""

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers

from bigmodel.data import words
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
