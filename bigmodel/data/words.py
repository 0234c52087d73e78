"""Where words begin among tokens: not where letters go on with those of the token before."""

import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data import utf8_pieces
from bigmodel.data.utf8_pieces import Pieces

# What a character is to the one before: a letter (or digit) goes on with a letter, a mark (a vowel,
# an accent) with whatever it is put on, and a byte of no character, as where a row cuts one, with
# another. The rest stand alone.
ALONE, LETTER, MARK, STRAY, NOTHING = range(5)
JOINERS = '\u200c\u200d'  # of no width, inside of words of Persian and of India
# Scripts without spaces between words, by how the names of their characters begin. Each character
# is a word of its own, as in BERT's code, where it is so of the first.
SPACELESS = re.compile(
    '(CJK|HIRAGANA|KATAKANA|HALFWIDTH KATAKANA|BOPOMOFO|YI|THAI|LAO|KHMER|MYANMAR|TIBETAN)[ -]'
)


@dataclasses.dataclass(frozen=True)
class Words:
    """Of each id, what its first character is, and its last that is no mark (else MARK)."""

    first: Int[np.ndarray, ' V']
    last: Int[np.ndarray, ' V']

    def starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word; ids beyond the vocabulary are words of their own."""
        known = ids < len(self.first)
        safe = np.where(known, ids, 0)
        first, last = (np.where(known, of[safe], NOTHING) for of in (self.first, self.last))
        return ~_goes_on(first, last)


@dataclasses.dataclass(frozen=True)
class ByteWords:
    """Words where each id stands for bytes, which may be any part of a character."""

    pieces: Pieces

    def starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word; ids without bytes are words of their own."""
        stream, places = self.pieces.stream(ids)
        codes = utf8_pieces.characters(stream)
        there = np.flatnonzero(codes != utf8_pieces.INSIDE)
        kinds = _kinds(codes[there])
        begins = np.zeros(len(stream), bool)
        begins[there] = ~_goes_on(kinds[None], kinds[None])[0]
        return begins[places]


def of_bytes() -> ByteWords:
    """Words where the ids below 256 are bytes."""
    return ByteWords(Pieces.of({i: bytes([i]) for i in range(256)}, 256))


def of_characters(texts: Mapping[str, int], size: int) -> Words:
    """Words of letters and digits, from the text of each id."""
    first, last = np.full((2, size), NOTHING)
    for text, i in texts.items():
        kinds = [_kind(c) for c in text] or [NOTHING]
        first[i] = kinds[0]
        last[i] = next((kind for kind in reversed(kinds) if kind != MARK), MARK)
    return Words(first, last)


def of_pieces(tokenizer: str, vocabulary: Mapping[str, int], size: int) -> Words | ByteWords:
    """Words of a Hugging Face tokenizer, of which this is the tokenizer.json.

    A vocabulary that marks the pieces inside of words (`##` of BERT's) says where they begin;
    others have them where letters and digits do.
    """
    described: dict[str, Any] = json.loads(tokenizer)
    inside = described['model'].get('continuing_subword_prefix')
    if inside:
        first = np.full(size, ALONE)
        first[[i for text, i in vocabulary.items() if text.startswith(inside)]] = LETTER
        return Words(first, np.full(size, LETTER))
    if '"ByteLevel"' not in json.dumps(described.get('decoder')):
        return of_characters(vocabulary, size)
    byte = _byte_of_character()
    known = {i: text for text, i in vocabulary.items() if set(text) <= byte.keys()}
    pieces = {i: bytes(byte[character] for character in text) for i, text in known.items()}
    return ByteWords(Pieces.of(pieces, size))


def _goes_on(
    first: Int[np.ndarray, 'n L'], last: Int[np.ndarray, 'n L']
) -> Bool[np.ndarray, 'n L']:
    """Which of these continue a word, marks letting through what they are put on."""
    places = np.where(last != MARK, np.arange(last.shape[1]), 0)
    reached = np.take_along_axis(last, np.maximum.accumulate(places, axis=1), 1)
    before = np.pad(reached, ((0, 0), (1, 0)), constant_values=NOTHING)[:, :-1]
    same = (first == before) & ((first == LETTER) | (first == STRAY))
    return same | ((first == MARK) & (before != NOTHING))


def _kinds(codes: Int[np.ndarray, ' S']) -> Int[np.ndarray, ' S']:
    """Of characters by number, or of what is none, which is negative."""
    table = np.zeros(codes.max(initial=0) + 4, np.int8)  # quicker than np.unique
    table[codes] = 1
    there = np.flatnonzero(table[:-3])
    table[there] = [_kind(chr(code)) for code in there.tolist()]
    table[utf8_pieces.STRAY], table[utf8_pieces.NO_BYTES] = STRAY, NOTHING
    return table[codes]


@functools.cache
def _kind(character: str) -> int:
    if unicodedata.category(character).startswith('M') or character in JOINERS:
        return MARK
    spaced = not SPACELESS.match(unicodedata.name(character, ''))
    return LETTER if character.isalnum() and spaced else ALONE


def _byte_of_character() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019, as in their code):
    printable ones of Latin-1 stand for themselves, the others are counted from 256.
    """
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in same]
    return {chr(b): b for b in same} | {chr(256 + n): b for n, b in enumerate(others)}
