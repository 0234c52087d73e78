"""Hugging Face tokenizers: any tokenizer.json, and the training of a byte-level BPE."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data import atomic, words
from bigmodel.data.documents import Texts
from bigmodel.data.plain_tokenizers import FILE, Ids, ints, utf8
from bigmodel.errors import UserError

OPTIONS_FILE = 'tokenizer_config.json'  # where Hugging Face's tools also keep these two names
END_OF_TEXT = '<|endoftext|>'
BOS_NAMES = ('<|begin_of_text|>', '<bos>', '<s>', '[CLS]', END_OF_TEXT)
EOS_NAMES = ('<|end_of_text|>', '<eos>', '</s>', '[SEP]', END_OF_TEXT)
PAD_NAMES = ('<|pad|>', '<pad>', '[PAD]')


@dataclasses.dataclass(frozen=True)
class HfTokenizer:
    """A Hugging Face tokenizer, given as the text of its tokenizer.json.

    `bos` and `eos` name its special tokens; 'auto' looks for the usual ones, '' means none.
    """

    text: str
    bos: str = 'auto'
    eos: str = 'auto'

    def __post_init__(self) -> None:
        vocabulary = self._vocabulary  # read here, so that a bad file is an error at once
        for name, special in (('bos', self.bos), ('eos', self.eos)):
            if special not in ('auto', '', *vocabulary):
                raise UserError(f'data.tokenizer: {name}={special!r} is not in the vocabulary')

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._vocabulary.values())

    @functools.cached_property
    def bos_id(self) -> int | None:
        """The id that starts a document, or None."""
        return self._special(self.bos, BOS_NAMES)

    @functools.cached_property
    def eos_id(self) -> int | None:
        """The id that ends a document, or None."""
        return self._special(self.eos, EOS_NAMES)

    @functools.cached_property
    def pad_id(self) -> int:
        """The id that fills rows; 0 when the tokenizer names none (it is masked anyway)."""
        return self._special('auto', PAD_NAMES) or 0

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the file and of the specials."""
        key = f'{self.bos_id} {self.eos_id} {self.text}'
        return 'hf-1-' + hashlib.sha256(utf8(key)).hexdigest()

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """The ids of `text`; only in `special` text names of specials stand for their id."""
        tokenizer = self._with_specials if special else self._tokenizer
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, ids: Ids) -> str:
        """The text of `ids`: specials dropped, invalid UTF-8 replaced."""
        known = [i for i in ints(ids) if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=True)

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word (data/words.py)."""
        return self._words.starts(ids)

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json, as Hugging Face's tools read it, and the names of the specials."""
        names = {'bos_token': self.bos, 'eos_token': self.eos}
        atomic.write_json(pathlib.Path(folder) / OPTIONS_FILE, names)
        atomic.write_text(pathlib.Path(folder) / FILE, self.text)

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # the library's object would lose options by pickling

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @functools.cached_property
    def _words(self) -> words.Words | words.ByteWords:
        return words.of_pieces(self.text, self._vocabulary, self.vocab_size)

    @functools.cached_property
    def _with_specials(self) -> Any:
        tokenizer = self._open()
        tokenizer.encode_special_tokens = False
        return tokenizer

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return self._open()

    def _open(self) -> Any:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(self.text)
        except Exception as e:  # the library raises nothing more precise
            raise UserError(f'not a Hugging Face tokenizer.json: {e}') from None
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @functools.cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def _special(self, name: str, usual: tuple[str, ...]) -> int | None:
        names = usual if name == 'auto' else (name,)
        return next((self._vocabulary[n] for n in names if n in self._vocabulary), None)


def read_hf(path: str, bos: str = 'auto', eos: str = 'auto') -> HfTokenizer:
    """Reads a tokenizer.json (or the folder that holds one); raises UserError if it is missing."""
    file = pathlib.Path(path)
    file = file / FILE if file.is_dir() else file
    try:
        return HfTokenizer(file.read_text(encoding='utf-8'), bos, eos)
    except (FileNotFoundError, UnicodeDecodeError) as e:
        what = 'is not there' if isinstance(e, FileNotFoundError) else 'is no tokenizer.json'
        raise UserError(
            f'data.tokenizer: {path!r} {what}; give a Hugging Face tokenizer.json as '
            f'hf("path/to/tokenizer.json"), or train one on your data'
        ) from None


def train_bpe(documents: Texts, vocab_size: int, path: str) -> HfTokenizer:
    """Trains a byte-level BPE of `vocab_size` entries on documents and writes it to `path`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise UserError(f'vocab_size={vocab_size}: a byte-level BPE needs at least 257 entries')
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents.texts(), trainer, length=len(documents))
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return read_hf(str(path))
