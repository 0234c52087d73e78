"""Texts that a model makes of an evaluation's prompts, beside those that it should have made."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from bigmodel.config import ConfigDict
from bigmodel.data.pipeline import Batch, Data
from bigmodel.data.store import TokenStore
from bigmodel.errors import UserError
from bigmodel.models.decoding import greedy
from bigmodel.models.encoder import Source
from bigmodel.models.model import Model
from bigmodel.scores.results import Text
from bigmodel.tasks.task import Batch as Arrays
from bigmodel.tasks.task import Beginning, Task
from bigmodel.training.batches import gathered, host_rows, put_batch
from bigmodel.training.restore import learned_length, refusal
from bigmodel.training.setup import Setup


class Question(NamedTuple):
    """How a document begins up to its last response, and that response."""

    document: int
    begin: Beginning
    target: str


class Generation:
    """The responses to some prompts of a split, each the most likely tokens up to its end.

    `evals.*.generate_rows` documents are taken, evenly spread, without those whose prompts have no
    place in a row; the source of an encoder is cut to it, as the packing `sides` does. Rows are
    decoded over the run's mesh, in batches of `data.batch_size`, by one program.
    Raises UserError, which begins with `what`, where there is nothing to generate.
    """

    def __init__(self, setup: Setup, data: Data, entry: ConfigDict, what: str) -> None:
        config = setup.config
        if refusal(config):
            raise UserError(f'{what}: this run {refusal(config)}')
        if not isinstance(data.store, TokenStore):
            raise UserError(
                f'{what}: texts are generated from one source, and data.mixture has several; name '
                f"one, as in {what}.data='source={config.data.source}'"
            )
        self._sharding, self._tokenizer = setup.sharding, data.tokenizer
        self._size, self._width = config.data.batch_size, setup.task.lengths(config.data.seq_len)[1]
        room = _room(config, entry.max_tokens, what)
        self._asked = list(_questions(data.store, setup.task, entry.generate_rows, self._width))
        self._asked = [asked for asked in self._asked if len(asked.begin.tokens) <= room]
        if not self._asked:
            raise UserError(
                f'{what}: no prompt among {entry.generate_rows or "all"} examples has at most '
                f'{room} tokens; use a larger data.seq_len or generate_rows, or a smaller '
                f'max_tokens'
            )
        lengths = [len(asked.begin.tokens) for asked in self._asked]
        self._longest = max(lengths)
        decode = partial(_decode, setup.model, max_tokens=entry.max_tokens, shortest=min(lengths))
        self._decode = jax.jit(decode)

    def __call__(self, params: Any) -> tuple[Text, ...]:
        """The texts, in the order of the documents."""
        found: list[Text] = []
        for start in range(0, len(self._asked), self._size):
            asked = self._asked[start : start + self._size]
            out = self._decode(params, put_batch(self._batch(asked), self._sharding))
            # Waits for each batch, as an evaluation does.
            rows = gathered({'tokens': out})['tokens']
            found += [self._text(*each) for each in zip(asked, rows, strict=False)]
        return tuple(found)

    def _batch(self, asked: list[Question]) -> Batch:
        """This host's rows; the last question fills up a batch."""
        here = host_rows(self._sharding, self._size).tolist()
        begins = [asked[min(i, len(asked) - 1)].begin for i in here]
        pad = self._tokenizer.pad_id
        tokens, segments = _filled([b.tokens for b in begins], self._longest, pad)
        batch = {'tokens': tokens, 'lengths': segments.sum(1, dtype=np.int32)}
        if self._width:
            source, read = _filled([b.source for b in begins], self._width, pad)
            batch |= {'source': source, 'source_segments': read}
        return batch

    def _text(self, asked: Question, row: Int[np.ndarray, ' N']) -> Text:
        ids = row.tolist()
        if asked.begin.end in ids:
            ids = ids[: ids.index(asked.begin.end)]
        return Text(asked.document, self._tokenizer.decode(ids), asked.target)


def _decode(model: Model, params: Any, batch: Arrays, **sizes: int) -> jax.Array:
    source = None
    if 'source' in batch:
        source = Source(batch['source'], None, batch['source_segments'])
    return greedy(model, params, batch['tokens'], batch['lengths'], source=source, **sizes)


def _room(config: ConfigDict, max_tokens: int, what: str) -> int:
    """How many tokens a prompt may have."""
    room, learned = config.data.seq_len, learned_length(config)
    if learned:
        room = min(room, learned - max_tokens)
    if room < 1:
        raise UserError(
            f'{what}: max_tokens={max_tokens}, but the model has learned positions for {learned}; '
            f'use fewer'
        )
    return room


def _questions(store: TokenStore, task: Task, count: int, width: int) -> Iterator[Question]:
    """Those of `count` documents (0: all), as far as they have a response."""
    there = store.num_documents
    count = min(count or there, there)
    for document in (i * there // count for i in range(count)):
        places = np.arange(store.offsets[document], store.offsets[document + 1])
        tokens, response = store.gather(places).tolist(), store.marks(places) == 1
        if not response.any():
            continue
        end = int(np.flatnonzero(response)[-1]) + 1
        start = int(np.flatnonzero(~response[:end])[-1]) + 1 if not response[:end].all() else 0
        prompt = tokens[:start]
        if prompt[:1] == [store.tokenizer.bos_id]:
            prompt = prompt[1:]  # the task puts it there
        begin = task.begin(prompt, store.tokenizer)
        begin = dataclasses.replace(begin, source=list(begin.source)[:width])
        yield Question(document, begin, store.tokenizer.decode(tokens[start:end]))


def _filled(
    rows: list[Any], width: int, pad_id: int
) -> tuple[Int[np.ndarray, 'B W'], Int[np.ndarray, 'B W']]:
    """The ids of each row, filled up with padding, and 1 where they are."""
    ids, there = np.full((len(rows), width), pad_id, np.int32), np.zeros((len(rows), width), int)
    for i, row in enumerate(rows):
        ids[i, : len(row)], there[i, : len(row)] = row, 1
    return ids, there.astype(np.int32)
