"""Tokenizers that need no training: bytes, characters, and none."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data import atomic, words
from bigmodel.errors import UserError

FILE = 'tokenizer.json'
Ids = Iterable[int] | np.ndarray
BYTE_WORDS = words.of_bytes()


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes, and one special before and one after each document."""

    vocab_size = 258
    bos_id, eos_id, pad_id = 256, 257, 0
    fingerprint = 'bytes-1'

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """The bytes of `text`; raises UserError for text that has no UTF-8 form."""
        return np.frombuffer(utf8(text), np.uint8)

    def decode(self, ids: Ids) -> str:
        """The text of `ids`: specials dropped, invalid UTF-8 replaced."""
        return bytes(i for i in ints(ids) if 0 <= i < 256).decode('utf-8', errors='replace')

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word (data/words.py)."""
        return BYTE_WORDS.starts(ids)

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json into `folder`."""
        atomic.write_json(pathlib.Path(folder) / FILE, {'kind': 'bytes'})


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One id per character of the training text, no specials."""

    characters: str

    bos_id, eos_id, pad_id = None, None, 0

    @property
    def vocab_size(self) -> int:
        """The number of different characters."""
        return len(self.characters)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary."""
        return 'chars-1-' + hashlib.sha256(utf8(self.characters)).hexdigest()

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """The ids of `text`; raises UserError for a character that the vocabulary lacks."""
        codes = np.frombuffer(utf8(text, 'utf-32-le'), np.uint32)
        ids = np.minimum(np.searchsorted(self._codes, codes), self.vocab_size - 1)
        wrong = codes[self._codes[ids] != codes]
        if len(wrong):
            raise UserError(
                f'character {chr(wrong[0])!r} (U+{wrong[0]:04X}) is not among the '
                f'{self.vocab_size} of the training text; use data.tokenizer=bytes, which has all'
            )
        return ids

    def decode(self, ids: Ids) -> str:
        """The text of `ids`; ids outside the vocabulary are dropped."""
        return ''.join(self.characters[i] for i in ints(ids) if 0 <= i < self.vocab_size)

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word (data/words.py)."""
        return self._words.starts(ids)

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json into `folder`."""
        atomic.write_json(
            pathlib.Path(folder) / FILE, {'kind': 'chars', 'characters': self.characters}
        )

    @functools.cached_property
    def _words(self) -> words.Words:
        return words.of_characters(dict(map(reversed, enumerate(self.characters))), self.vocab_size)

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        return np.array([ord(c) for c in self.characters], np.uint32)


@dataclasses.dataclass(frozen=True)
class NoTokenizer:
    """That of data without text: no ids, no text of them."""

    vocab_size = 0
    bos_id, eos_id, pad_id = None, None, 0
    fingerprint = 'none'

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Raises UserError: there is no vocabulary."""
        raise UserError('this data holds no text, so there are no tokens to write or to read')

    def decode(self, ids: Ids) -> str:
        """''."""
        return ''

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """All: there are no words."""
        return np.ones(ids.shape, bool)

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json into `folder`."""
        atomic.write_json(pathlib.Path(folder) / FILE, {'kind': 'none'})


def utf8(text: str, encoding: str = 'utf-8') -> bytes:
    """Encodes `text`; raises UserError for lone surrogates, which have no UTF-8 form."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as e:
        raise UserError(f'text holds a lone surrogate {text[e.start]!a}: not valid Unicode') from e


def ints(ids: Ids) -> list[int]:
    return np.asarray(ids if hasattr(ids, '__array__') else list(ids)).ravel().tolist()
