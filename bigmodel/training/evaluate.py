"""Evaluation: additive metrics over a whole split, divided once, and scores of its predictions."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from bigmodel.config import ConfigDict
from bigmodel.data.documents import References
from bigmodel.data.mixture import configs_of
from bigmodel.data.pipeline import Data
from bigmodel.data.sources import build_documents
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.metrics import Metrics, add, values
from bigmodel.scores.results import Results, Text
from bigmodel.scores.table import build_scores
from bigmodel.tasks.by_source import by_source
from bigmodel.training.batches import gathered, put_batch
from bigmodel.training.evaluated import evaluated
from bigmodel.training.generation import Generation
from bigmodel.training.setup import Setup
from bigmodel.training.step import EMPTY, JudgeFn, make_judge

Judges = Callable[[tuple[str, ...]], JudgeFn]
Generate = Callable[[Any], tuple[Text, ...]]


class Evaluation:
    """An entry of `evals`: its data, and the scores beside the task's means.

    Texts are generated where a score is of them, and with `texts` wherever the task has them.
    Raises UserError for data or scores that do not fit the run.
    """

    def __init__(
        self,
        setup: Setup,
        name: str,
        entry: ConfigDict,
        judges: Judges,
        labelled: bool = True,
        texts: bool = False,
    ) -> None:
        self._setup, self._batches = setup, entry.batches
        what, task = f'evals.{name}.scores', setup.task
        self._scores = build_scores(entry.scores, (task.predicts, task.learns), what)
        self.config, self.split = evaluated(setup.config, name, entry), entry.split
        self.data = setup.open_evaluation(name, self.config, self.split, labelled)
        self._judge = judges(tuple(self.data.parts))
        self._check_sources(name)
        self.predicts = task.predicts
        if any(score.words for score in self._scores):
            _check_words(setup.config, self.data.tokenizer, what)
        texts = (texts and task.learns == 'responses') or any(s.texts for s in self._scores)
        self._generate: Generate = (
            Generation(setup, self.data, entry, f'evals.{name}') if texts else no_texts
        )

    def __call__(self, params: Any, companions: Mapping[str, Any] = EMPTY) -> dict[str, float]:
        """The means and the scores.

        Tasks that predict every next token also get `bits_per_byte` of text, which does not depend
        on the tokenizer.
        """
        rows = any(score.rows for score in self._scores)
        return self._values(self._with_texts(params, self.results(params, companions, rows)))

    def scored(
        self, params: Any, companions: Mapping[str, Any] = EMPTY
    ) -> tuple[dict[str, float], Results]:
        """The means and the scores, and what they are of."""
        results = self._with_texts(params, self.results(params, companions))
        return self._values(results), results

    def names(self) -> tuple[str, ...]:
        """Of what it logs, found without computing anything: the scores are of no rows."""
        params, companions = self._setup.abstract.params, self._setup.abstract.companions
        batch = put_batch(self.data.batches(0), self._setup.sharding)
        metrics, judged = jax.eval_shape(self._judge, params, batch, companions=dict(companions))
        none = np.zeros(0, int)
        rows = {k: np.zeros((0, *v.shape[1:]), v.dtype) for k, v in judged.items()}
        rows |= {'index': none} | self._whose(none)
        results = self._results(dict.fromkeys(metrics, 0.0), rows)
        return tuple(self._values(dataclasses.replace(results, texts=(Text(0, '', ''),))))

    def _with_texts(self, params: Any, results: Results) -> Results:
        return dataclasses.replace(results, texts=self._generate(params))

    def _values(self, results: Results) -> dict[str, float]:
        values = dict(results.means)
        for score in self._scores:
            values |= score.of(results)
        return values

    def _numbers(self) -> list[int]:
        """Which batches are read."""
        there = self.data.batches.num_batches
        count = min(self._batches or there, there)
        # Neighbouring rows are of the same document, hence the spread.
        return [i * there // count for i in range(count)]

    def _check_sources(self, name: str) -> None:
        """A few batches may miss a source of a mixture, whose rows are one after the other."""
        size, numbers = self.data.batches.batch_size, np.array(self._numbers())
        first = 0
        for source, part in self.data.parts.items():
            last = first + part.num_rows
            if not ((numbers < -(-last // size)) & ((numbers + 1) * size > first)).any():
                raise UserError(
                    f'evals.{name}.batches={self._batches} reads no row of {source}, which is '
                    f'{part.num_rows} of {self.data.batches.num_rows} rows; use more, or 0 for all'
                )
            first = last

    def results(
        self, params: Any, companions: Mapping[str, Any] = EMPTY, rows: bool = True
    ) -> Results:
        """The means, and with `rows` the predictions, of batches that are evenly spread."""
        total: Metrics | None = None
        found: list[dict[str, np.ndarray]] = []
        batches = self.data.batches
        for number in self._numbers():
            batch = put_batch(batches(number), self._setup.sharding)
            metrics, judged = self._judge(params, batch, companions=dict(companions))
            # Waits for each batch: XLA:CPU's devices deadlock in their collectives when they run
            # ahead of each other, which only a dependence between programs forbids.
            metrics = jax.device_get(metrics)
            total = metrics if total is None else add(total, metrics)
            if rows:
                size = batches.batch_size
                index = number * size + np.arange(size)
                keep = index < batches.num_rows
                judged = {'index': index, **gathered(judged)}
                found.append({k: v[keep] for k, v in judged.items()} | self._whose(index[keep]))
        joined = {k: np.concatenate([f[k] for f in found]) for k in (found or [{}])[0]}
        return self._results(values(total or {}), joined)

    def _results(self, means: dict[str, float], rows: dict[str, np.ndarray]) -> Results:
        task = self._setup.task
        if task.whole_text and self.data.store.num_bytes:
            means = means | _bits_per_byte(means, self.data, task.text_nll)
        names, decode = self._setup.label_names, self.data.tokenizer.decode
        return Results(means, rows, names, decode, references=self._right)

    def _whose(self, index: Int[np.ndarray, ' n']) -> dict[str, np.ndarray]:
        """The documents of rows, and how many rows each of them has."""
        documents = self.data.batches.examples.documents
        if not documents.size:
            return {}
        return {'document': documents[index], 'of_document': self._rows_of[documents[index]]}

    @functools.cached_property
    def _rows_of(self) -> Int[np.ndarray, ' D']:
        return np.bincount(self.data.batches.examples.documents)

    @functools.cached_property
    def _references(self) -> References:
        configs = configs_of(self.config.data).values()
        return References([build_documents(config, self.split) for config in configs])

    def _right(self, document: int) -> tuple[str, ...]:
        """The right texts, as tokens spell them, which is how predictions are read."""
        tokenizer = self.data.tokenizer
        return tuple(tokenizer.decode(tokenizer.encode(t)) for t in self._references(document))


def no_texts(params: Any) -> tuple[Text, ...]:
    """Of an evaluation that generates none."""
    return ()


def open_evaluations(setup: Setup) -> dict[str, Evaluation]:
    """Those of the config, by name, which share a program."""
    judges = judges_of(setup)
    return {name: Evaluation(setup, name, e, judges) for name, e in setup.config.evals.items()}


def judges_of(setup: Setup) -> Judges:
    """The programs that judge a batch: (params, batch, companions={}), by the sources of its rows
    where they are of a mixture.
    """

    def judge_of(sources: tuple[str, ...]) -> JudgeFn:
        judge = make_judge(setup.model, by_source(setup.task, sources), setup.companion_models)
        return jax.jit(partial(judge, dropout_key=None))

    return lambda sources: setup.programs.once(('judge', sources), partial(judge_of, sources))


def _bits_per_byte(found: Mapping[str, float], data: Data, nll: str) -> dict[str, float]:
    """Of the whole, and of each source that was read; `nll` is the metric of nats a token."""
    stores = {'': data.store} | {f'/{name}': part.store for name, part in data.parts.items()}
    return {
        f'bits_per_byte{of}': found[f'{nll}{of}'] / math.log(2) * _predicted_per_byte(store)
        for of, store in stores.items()
        if f'{nll}{of}' in found
    }


def _predicted_per_byte(store: Any) -> float:
    """Predicted tokens a byte of text: all but the first token of each document."""
    return (store.num_tokens - store.num_documents) / max(store.num_bytes, 1)


def _check_words(config: ConfigDict, tokenizer: Tokenizer, what: str) -> None:
    if not len(tokenizer.encode(' ')):
        raise UserError(
            f"{what}: 'f1' tells words apart by what is between them, of which data.tokenizer="
            f'{config.data.tokenizer!r} makes no token; choose another tokenizer'
        )
