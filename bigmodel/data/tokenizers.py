"""Text to token ids and back: the slot `data.tokenizer`."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from bigmodel import specs
from bigmodel.data.documents import Texts
from bigmodel.data.hf_tokenizer import OPTIONS_FILE, HfTokenizer, read_hf, train_bpe
from bigmodel.data.plain_tokenizers import FILE, ByteTokenizer, CharTokenizer, Ids, NoTokenizer
from bigmodel.data.sentencepiece_tokenizer import (
    KIND,
    MODEL_FILE,
    SentencePieceTokenizer,
    read_sentencepiece,
)
from bigmodel.errors import UserError

__all__ = ['TOKENIZERS', 'Tokenizer', 'build_tokenizer', 'load_tokenizer', 'train_bpe']


@runtime_checkable
class Tokenizer(Protocol):
    """A frozen, picklable tokenizer."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the ids."""

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """The ids of `text`, an integer array; in `special` text, specials stand for their id."""

    def decode(self, ids: Ids) -> str:
        """The text of `ids`: specials dropped, invalid UTF-8 replaced."""

    def word_starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word (data/words.py)."""

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer.json into `folder`, which `load_tokenizer` reads."""


def train_chars(training: Callable[[], Texts]) -> CharTokenizer:
    """The sorted characters of the training split; `training` opens it."""
    found: set[str] = set()
    for text in training().texts():
        found.update(text)
    return CharTokenizer(''.join(sorted(found)))


PLAIN = {'bytes': ByteTokenizer, 'none': NoTokenizer}  # that all is known of by their kind
TOKENIZERS = {
    'bytes': ByteTokenizer,
    'chars': train_chars,
    'hf': read_hf,
    'sentencepiece': read_sentencepiece,
}


def build_tokenizer(spec: str, training: Callable[[], Texts] | None = None) -> Tokenizer:
    """The tokenizer that `spec` names; `training` opens the training split for those it trains."""
    return specs.make(TOKENIZERS, spec, 'data.tokenizer', training=training)


def quick_key(spec: str) -> str:
    """Changes when the tokenizer of `spec` may have: the spec, and the files that it names."""
    parsed = specs.parse(spec, 'data.tokenizer')
    values = [str(v) for v in (*parsed.args, *parsed.kwargs.values())]
    places = [f for v in values for f in (v, *(os.path.join(v, n) for n in (FILE, MODEL_FILE)))]
    files = [f for f in places if os.path.isfile(f)]
    stats = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
    return f'{parsed.name} {values} {stats}'


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Restores what `Tokenizer.save` wrote; raises UserError when it is missing or damaged."""
    file = pathlib.Path(folder) / FILE
    try:
        text = file.read_text(encoding='utf-8')
        saved = json.loads(text)
        if saved.get('kind') == 'chars':
            return CharTokenizer(saved['characters'])
        if saved.get('kind') in PLAIN:
            return PLAIN[saved['kind']]()
        if saved.get('kind') == KIND:
            model = file.with_name(MODEL_FILE).read_bytes()
            return SentencePieceTokenizer(model, saved['bos'], saved['eos'])
        options = file.with_name(OPTIONS_FILE)
        names = json.loads(options.read_text(encoding='utf-8')) if options.exists() else {}
        return HfTokenizer(text, names.get('bos_token', 'auto'), names.get('eos_token', 'auto'))
    except FileNotFoundError:
        raise UserError(f'{file} does not exist: no tokenizer was saved there') from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError) as e:
        raise UserError(f'{file} is damaged ({e})') from e
