"""What a synthetic probe is: rows that are a function of (seed, split, index), with answers."""

import dataclasses
import functools
import hashlib
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int

from bigmodel.data.draws import Draws
from bigmodel.data.order import mix
from bigmodel.data.plain_tokenizers import CharTokenizer
from bigmodel.data.rows import MadeRows, RowSource
from bigmodel.data.splits import SPLITS, check_split
from bigmodel.errors import UserError
from bigmodel.specs import NOT_NEGATIVE, POSITIVE

VERSION = 1  # part of every fingerprint: raise it when the same arguments give other rows

Tokens = Int[np.ndarray, 'n length']
Answers = Bool[np.ndarray, 'n length']


@dataclasses.dataclass(frozen=True)
class Probe(RowSource):
    """A synthetic task: rows of symbols, and which of them are answers.

    `seed` names the data set (the run's own seed only shuffles it), `rows` is the size of its
    training split and `held_out` of each other one. A row is drawn for its split and index, so that
    no row is kept anywhere; two splits share one only where the task has few different rows.
    """

    split: str
    seed: Annotated[int, NOT_NEGATIVE] = dataclasses.field(default=0, kw_only=True)
    rows: Annotated[int, POSITIVE] = dataclasses.field(default=1_000_000, kw_only=True)
    held_out: Annotated[int, POSITIVE] = dataclasses.field(default=1024, kw_only=True)

    @property
    def num_symbols(self) -> int:
        """The size of the vocabulary: ids are 0 to `num_symbols` − 1."""
        raise NotImplementedError

    @property
    def least(self) -> int:
        """The fewest tokens that a row takes."""
        raise NotImplementedError

    def generate(self, draws: Draws, length: int) -> tuple[Tokens, Answers]:
        """Rows of at most `length` tokens, and True where a token is an answer."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the rows of all splits."""
        values = dataclasses.asdict(self)
        del values['split']
        key = f'{VERSION} {type(self).__name__} {values}'
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def open(self, length: int) -> 'ProbeRows':
        return ProbeRows(self, length)


class ProbeRows(MadeRows):
    """A probe as `Examples` of `length` tokens.

    `take` gives tokens int32 (n, length) and weights float32 (n, length), 1 for answers. Rows that
    are shorter end in zeros, which nothing before them sees and no weight counts.
    """

    def __init__(self, probe: Probe, length: int) -> None:
        check_split(probe.split)
        if length < probe.least:
            raise UserError(
                f'data.seq_len={length - 1} is too short: a row of this probe takes '
                f'{probe.least} tokens, so data.seq_len at least {probe.least - 1}'
            )
        self.probe, self.length = probe, length
        self.fingerprint = probe.fingerprint
        split = np.array([SPLITS.index(probe.split)], np.uint64)
        self._key = mix(mix(np.array([probe.seed], np.uint64)) ^ split)

    @functools.cached_property
    def tokenizer(self) -> CharTokenizer:
        """One character for each symbol: those of ASCII first, from '!'."""
        codes = [33 + i if i < 94 else 161 + i - 94 for i in range(self.probe.num_symbols)]
        return CharTokenizer(''.join(map(chr, codes)))

    def __len__(self) -> int:
        return self.probe.rows if self.probe.split == 'train' else self.probe.held_out

    def take(self, indices: Int[np.ndarray, 'n']) -> dict[str, np.ndarray]:
        """The rows at `indices`."""
        draws = Draws(mix(self._key ^ mix(np.asarray(indices, np.uint64))))
        tokens, answers = self.probe.generate(draws, self.length)
        rest = ((0, 0), (0, self.length - tokens.shape[1]))
        return {
            'tokens': np.pad(tokens, rest).astype(np.int32),
            'weights': np.pad(answers, rest).astype(np.float32),
        }

    def summary(self) -> str:
        """What a report says of the rows."""
        answers = int(self.take(np.zeros(1, np.int64))['weights'].sum())
        return (
            f'{len(self):,} rows of up to {self.length} tokens, generated; '
            f'{self.probe.num_symbols} symbols, {answers} answers a row'
        )
