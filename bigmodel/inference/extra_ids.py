"""The ids that a task adds to its tokenizer's, written `<extra_id_0>` as T5's users do."""

import dataclasses
import itertools
import re
from collections.abc import Iterable

from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError

MARK = re.compile(r'<extra_id_(\d+)>')


@dataclasses.dataclass(frozen=True)
class ExtraIds:
    """A tokenizer whose text also holds `count` extra ids; with none it is the tokenizer itself."""

    tokenizer: Tokenizer
    count: int

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; raises UserError for an extra id that is not there."""
        ids = []
        # A pattern with a group splits into text, number, text, …
        for i, piece in enumerate(MARK.split(text) if self.count else [text]):
            ids += [self._extra(int(piece))] if i % 2 else self.tokenizer.encode(piece).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: specials dropped, extra ids written out."""
        first, texts = self.tokenizer.vocab_size, []
        for extra, group in itertools.groupby(ids, lambda i: i >= first):
            run = list(group)
            names = ''.join(f'<extra_id_{i - first}>' for i in run)
            texts.append(names if extra else self.tokenizer.decode(run))
        return ''.join(texts)

    def _extra(self, number: int) -> int:
        if number >= self.count:
            raise UserError(
                f'the prompt has <extra_id_{number}>, but the task has only <extra_id_0> to '
                f'<extra_id_{self.count - 1}>'
            )
        return self.tokenizer.vocab_size + number
