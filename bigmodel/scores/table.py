"""The scores by name: which an evaluation computes beside the task's means is `evals.*.scores`."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable

import numpy as np

from bigmodel.errors import UserError, unknown
from bigmodel.scores import answers, classes, entities, numbers, texts
from bigmodel.scores.results import Results


@dataclasses.dataclass(frozen=True)
class Score:
    """A function of results that names its values.

    It is of predictions where `rows` says so, of generated texts where `texts` does, else of means
    alone. `words` says that it tells words apart by the tokens between them; `needs` is a library
    that it imports.
    """

    of: Callable[[Results], dict[str, float]]
    rows: bool = True
    texts: bool = False
    words: bool = False
    needs: str = ''


def perplexity(results: Results) -> dict[str, float]:
    """`perplexity`: exp of the nats a token."""
    with np.errstate(over='ignore'):
        return {'perplexity': float(np.exp(np.float64(results.means.get('nll', np.nan))))}


# Name -> what a task predicts or learns -> the score.
SCORES = {
    'f1': {
        'class': Score(classes.f1),
        'classes': Score(entities.f1, words=True),
        'span': Score(answers.span_f1),
    },
    'matthews': {'class': Score(classes.matthews)},
    'pearson': {'number': Score(numbers.pearson)},
    'spearman': {'number': Score(numbers.spearman)},
    'exact_match': {
        'span': Score(answers.span_exact_match),
        'responses': Score(texts.exact_match, rows=False, texts=True),
    },
    'bleu': {'responses': Score(texts.bleu, rows=False, texts=True, needs='sacrebleu')},
    'rouge': {'responses': Score(texts.rouge, rows=False, texts=True)},
    'perplexity': {'tokens': Score(perplexity, rows=False)},
}


def build_scores(names: Iterable[str], kinds: tuple[str, ...], what: str) -> tuple[Score, ...]:
    """The scores of a task that predicts and learns `kinds`.

    Raises UserError, which begins with `what`, for an unknown one, one that does not fit and one
    whose library is missing.
    """
    found = []
    for name in map(str, names):
        if name not in SCORES:
            raise unknown(what, name, SCORES)
        fitting = [score for kind, score in SCORES[name].items() if kind in kinds]
        if not fitting:
            others = [n for n, of in SCORES.items() if set(of) & set(kinds)]
            raise UserError(
                f'{what}: {name!r} does not fit this task; those that do: '
                f'{", ".join(others) or "none"}'
            )
        needs = fitting[0].needs
        if needs and not importlib.util.find_spec(needs):
            raise UserError(f'{what}: {name!r} needs {needs}: pip install {needs}')
        found.append(fitting[0])
    return tuple(found)
