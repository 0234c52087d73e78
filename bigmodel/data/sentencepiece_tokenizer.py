"""SentencePiece models: the tokenizers of T5, Llama 2, Gemma and Mistral."""

import dataclasses
import functools
import hashlib
import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data import atomic, words
from bigmodel.data.plain_tokenizers import FILE, Ids, ints, utf8
from bigmodel.errors import UserError, nearest

MODEL_FILE = 'tokenizer.model'  # as Hugging Face's tools name it
KIND = 'sentencepiece'


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model (Kudo & Richardson 2018), given as the bytes of its file.

    `bos` and `eos` name pieces; 'auto' takes the model's own, '' means none. What the model calls
    user-defined symbols stands for its id in any text, as the library has it.
    """

    model: bytes = dataclasses.field(repr=False)
    bos: str = 'auto'
    eos: str = 'auto'

    def __post_init__(self) -> None:
        assert self._processor  # read here, so that a bad file is an error at once
        for name, special in (('bos', self.bos), ('eos', self.eos)):
            if special not in ('auto', '', *self._control):
                raise UserError(
                    f'data.tokenizer: {name}={special!r} is no control symbol of the model.'
                    f'{nearest(special, self._control)} There are: {", ".join(self._control)}'
                )

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        return self._processor.vocab_size()

    @functools.cached_property
    def bos_id(self) -> int | None:
        """The id that starts a document, or None."""
        return self._special(self.bos, self._processor.bos_id())

    @functools.cached_property
    def eos_id(self) -> int | None:
        """The id that ends a document, or None."""
        return self._special(self.eos, self._processor.eos_id())

    @functools.cached_property
    def pad_id(self) -> int:
        """The id that fills rows; 0 when the model has none (it is masked anyway)."""
        return max(self._processor.pad_id(), 0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the file and of the specials."""
        key = f'{self.bos_id} {self.eos_id} '.encode()
        return f'{KIND}-1-' + hashlib.sha256(key + self.model).hexdigest()

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """The ids of `text`; only in `special` text names of control symbols stand for their id."""
        utf8(text)  # raises UserError for what is no Unicode
        if not special:
            return np.array(self._processor.encode(text), np.int64)
        names = '|'.join(map(re.escape, self._control))
        found: list[int] = []
        # A pattern in a group splits into text, name, text, …
        for i, part in enumerate(re.split(f'({names})', text)):
            found += [self._control[part]] if i % 2 else self._processor.encode(part)
        return np.array(found, np.int64)

    def decode(self, ids: Ids) -> str:
        """The text of `ids`: specials dropped, invalid UTF-8 replaced."""
        hidden = {*self._control.values()}
        known = [i for i in ints(ids) if 0 <= i < self.vocab_size and i not in hidden]
        return self._processor.decode(known)

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word (data/words.py)."""
        return self._words.starts(ids)

    def save(self, folder: pathlib.Path) -> None:
        """Writes the model beside a tokenizer.json that says so, with the names of the specials."""
        atomic.write(pathlib.Path(folder) / MODEL_FILE, lambda file: file.write(self.model))
        names = {'kind': KIND, 'bos': self.bos, 'eos': self.eos}
        atomic.write_json(pathlib.Path(folder) / FILE, names)

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the library's object

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @functools.cached_property
    def _words(self) -> words.Words:
        pieces = {self._processor.id_to_piece(i): i for i in range(self.vocab_size)}
        return words.of_characters(pieces, self.vocab_size)

    @functools.cached_property
    def _processor(self) -> Any:
        try:
            import sentencepiece
        except ImportError:
            raise UserError(
                'data.tokenizer=sentencepiece needs a library: pip install sentencepiece'
            ) from None
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except RuntimeError:
            raise UserError('data.tokenizer: the file holds no SentencePiece model') from None

    @functools.cached_property
    def _control(self) -> dict[str, int]:
        pieces = self._processor
        return {
            pieces.id_to_piece(i): i for i in range(pieces.vocab_size()) if pieces.is_control(i)
        }

    def _special(self, name: str, own: int) -> int | None:
        return (own if own >= 0 else None) if name == 'auto' else self._control.get(name)


def read_sentencepiece(path: str, bos: str = 'auto', eos: str = 'auto') -> SentencePieceTokenizer:
    """Reads a SentencePiece model (or the folder that holds one, as 'tokenizer.model').

    Raises UserError if it is missing or no model, or where the library is missing.
    """
    file = pathlib.Path(path)
    file = file / MODEL_FILE if file.is_dir() else file
    try:
        return SentencePieceTokenizer(file.read_bytes(), bos, eos)
    except FileNotFoundError:
        raise UserError(
            f'data.tokenizer: {path!r} does not exist; give a model of SentencePiece as '
            f'sentencepiece("path/to/{MODEL_FILE}")'
        ) from None
