"""Where words begin among tokens: not where letters go on with those of the token before."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

# Bytes of letters and digits; those beyond ASCII are of letters, for all that a byte tells.
LETTERS = np.array([i > 127 or chr(i).isalnum() for i in range(256)])


@dataclasses.dataclass(frozen=True)
class Words:
    """Of each id, whether its first and its last character may be inside of a word."""

    first: Bool[np.ndarray, ' V']
    last: Bool[np.ndarray, ' V']

    def starts(self, ids: Int[np.ndarray, 'n L']) -> Bool[np.ndarray, 'n L']:
        """Which tokens begin a word; ids beyond the vocabulary are words of their own."""
        known = ids < len(self.first)
        safe = np.where(known, ids, 0)
        ends = self.last[safe] & known
        return ~(self.first[safe] & known & np.pad(ends, ((0, 0), (1, 0)))[:, :-1])


def of_characters(texts: Mapping[str, int], size: int) -> Words:
    """Words of letters and digits, from the text of each id."""
    first, last = np.zeros((2, size), bool)
    for text, i in texts.items():
        first[i], last[i] = text[:1].isalnum(), text[-1:].isalnum()
    return Words(first, last)


def of_pieces(tokenizer: str, vocabulary: Mapping[str, int], size: int) -> Words:
    """Words of a Hugging Face tokenizer, of which this is the tokenizer.json.

    A vocabulary that marks the pieces inside of words (`##` of BERT's) says where they begin;
    others have them where letters and digits do.
    """
    described: dict[str, Any] = json.loads(tokenizer)
    inside = described['model'].get('continuing_subword_prefix')
    if inside:
        first = np.zeros(size, bool)
        first[[i for text, i in vocabulary.items() if text.startswith(inside)]] = True
        return Words(first, np.ones(size, bool))
    if '"ByteLevel"' not in json.dumps(described.get('decoder')):
        return of_characters(vocabulary, size)
    first, last = np.zeros((2, size), bool)
    byte = _byte_of_character()
    for text, i in vocabulary.items():
        if text and set(text) <= byte.keys():
            first[i], last[i] = LETTERS[byte[text[0]]], LETTERS[byte[text[-1]]]
    return Words(first, last)


def _byte_of_character() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019, as in their code):
    printable ones of Latin-1 stand for themselves, the others are counted from 256.
    """
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in same]
    return {chr(b): b for b in same} | {chr(256 + n): b for n, b in enumerate(others)}
