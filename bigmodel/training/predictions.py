"""Predictions of a split in words, an example a row, in the order of the source."""

import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bigmodel.data import atomic
from bigmodel.data.formats import build_format
from bigmodel.data.sources import build_row_source, build_source
from bigmodel.errors import UserError
from bigmodel.scores import answers, entities
from bigmodel.scores.results import Results
from bigmodel.training.evaluate import Evaluation

Line = dict[str, Any]


def written(results: Results, row: int, which: str, predicts: str) -> Any:
    """The `prediction` or `target` of a row: a class's name, a number, tags of words or a text."""
    return WORDS[predicts](results, row, which)


def class_value(classes: tuple[str, ...], number: int) -> str | int:
    """The name of a class; its number where classes are only numbered."""
    return int(number) if classes[number] == str(number) else classes[number]


def _class(results: Results, row: int, which: str) -> str | int:
    return class_value(results.classes, int(results.rows[which][row]))


def _number(results: Results, row: int, which: str) -> float:
    return float(results.rows[which][row])


def _tags(results: Results, row: int, which: str) -> list[str | int]:
    one = {k: v[row : row + 1] for k, v in results.rows.items()} | {'weight': np.ones(1)}
    pairs = entities.words(Results({}, one, results.classes, results.decode))
    tags = [tag for pair in pairs for tag in pair[which == 'target']]
    return [class_value(results.classes, tag) for tag in tags]


# What a task predicts -> how a person reads it.
WORDS: dict[str, Callable[[Results, int, str], Any]] = {
    'class': _class,
    'number': _number,
    'classes': _tags,
    'span': answers.answer,
}


# What a task predicts -> its results with one row an example, where an example may have several.
ONE_EACH: dict[str, Callable[[Results], Results]] = {'span': answers.per_question}


def predictions(evaluation: Evaluation, results: Results) -> Iterator[Line]:
    """Of each text that was generated, or else of each row."""
    lines = of_texts if results.texts else of_rows
    return lines(evaluation, results)


def of_texts(evaluation: Evaluation, results: Results) -> Iterator[Line]:
    """The example's `index` and `place`, `prediction`, and `target`, the text of its response."""
    source = build_source(evaluation.config.data, evaluation.split)
    for text in results.texts:
        yield {
            'index': text.document,
            'place': source.place(text.document),
            'prediction': text.prediction,
            'target': text.target,
        }


def of_rows(evaluation: Evaluation, results: Results) -> Iterator[Line]:
    """Of each row: the example's `index` and `place`, `prediction`, `target` (None where the row
    does not count), and `confidence`, the probability of what is predicted, where there is one.
    """
    places = Places(evaluation)
    results = ONE_EACH.get(evaluation.predicts, lambda results: results)(results)
    for row, number in enumerate(results.rows['index'].tolist()):
        counts = results.rows['weight'][row] > 0
        line = {
            'index': places.index(number),
            'place': places.place(number),
            'prediction': written(results, row, 'prediction', evaluation.predicts),
            'target': written(results, row, 'target', evaluation.predicts) if counts else None,
        }
        scalar = results.rows.get('confidence', np.zeros((1, 1))).ndim == 1
        yield line | ({'confidence': float(results.rows['confidence'][row])} if scalar else {})


def labelled(evaluation: Evaluation, results: Results, threshold: float) -> Iterator[Line]:
    """The fields of the examples whose predicted class has a probability of `threshold` at least,
    with that class as `label` and the probability as `confidence` (Lee 2013; Xie et al. 2020).
    """
    places = Places(evaluation)
    for row, number in enumerate(results.rows['index'].tolist()):
        confidence = float(results.rows['confidence'][row])
        if confidence >= threshold:
            label = written(results, row, 'prediction', evaluation.predicts)
            yield places.fields(number) | {'label': label, 'confidence': confidence}


class Places:
    """Where the rows of an evaluation come from."""

    def __init__(self, evaluation: Evaluation) -> None:
        if evaluation.predicts not in WORDS:
            raise UserError(
                f'this task predicts {evaluation.predicts}, of which no row has one to write; '
                f'those that do predict {", ".join(WORDS)}'
            )
        data = evaluation.config.data
        split = evaluation.split
        if data.mixture:
            raise UserError(
                'predictions are of one source, and data.mixture has several; name one, as in '
                f'--config.data.source={data.source!r}'
            )
        self._made = build_row_source(data, split) is not None
        self._name = f'{data.source}, split {split!r}'
        self._examples = evaluation.data.batches.examples
        if not self._made:
            if not self._examples.documents.size:
                raise UserError(
                    f'data.packing={data.packing!r} has several documents a row; predictions are '
                    f"of one: set data.packing='pad(truncate=True)' or 'windows'"
                )
            self._source = build_source(data, split)
            self._group = build_format(data.format).group

    def index(self, row: int) -> int:
        """The number of the example in its split."""
        return row if self._made else int(self._examples.documents[row]) // self._group

    def place(self, row: int) -> str:
        """File and line, or whatever the source says."""
        index = self.index(row)
        return f'{self._name}, row {index}' if self._made else self._source.place(index)

    def fields(self, row: int) -> dict[str, Any]:
        """The example itself."""
        if self._made:
            raise UserError(f'{self._name}: its rows are images or made, and have no text to write')
        return self._source[self.index(row)]


def write_lines(path: str, lines: Iterator[Line], what: str) -> list[Line]:
    """Writes a JSONL file, whole or not at all, on the first host alone; returns the lines."""
    found = list(lines)
    text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in found)
    _on_first_host(lambda file: atomic.write_text(file, text), path, what)
    return found


def check_output(path: str, what: str) -> None:
    """Raises UserError where `write_lines` could not write, before there are lines."""
    _on_first_host(atomic.check, path, what)


def _on_first_host(act: Callable[[pathlib.Path], None], path: str, what: str) -> None:
    try:
        if jax.process_index() == 0:
            act(pathlib.Path(path))
    except OSError as e:
        raise UserError(f'{what}={path} cannot be written: {e.strerror}; name another file') from e


def class_counts(lines: list[Line]) -> str:
    """How many lines have each label, in words."""
    counts = Counter(str(line['label']) for line in lines)
    return ', '.join(f'{label} {n}' for label, n in sorted(counts.items()))
