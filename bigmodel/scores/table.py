"""The scores by name: which an evaluation computes beside the task's means is `evals.*.scores`."""

import dataclasses
import math
from collections.abc import Callable, Iterable

from bigmodel.errors import UserError, unknown
from bigmodel.scores import answers, classes, entities, numbers
from bigmodel.scores.results import Results


@dataclasses.dataclass(frozen=True)
class Score:
    """A function of results that names its values; `rows`: of predictions, not of means alone."""

    of: Callable[[Results], dict[str, float]]
    rows: bool = True


def perplexity(results: Results) -> dict[str, float]:
    """`perplexity`: exp of the nats a token."""
    return {'perplexity': math.exp(results.means['nll'])}


# Name -> what a task predicts or learns -> the score.
SCORES = {
    'f1': {
        'class': Score(classes.f1),
        'classes': Score(entities.f1),
        'span': Score(answers.span_f1),
    },
    'matthews': {'class': Score(classes.matthews)},
    'pearson': {'number': Score(numbers.pearson)},
    'spearman': {'number': Score(numbers.spearman)},
    'exact_match': {'span': Score(answers.span_exact_match)},
    'perplexity': {'tokens': Score(perplexity, rows=False)},
}


def build_scores(names: Iterable[str], kinds: tuple[str, ...], what: str) -> tuple[Score, ...]:
    """The scores of a task that predicts and learns `kinds`.

    Raises UserError, which begins with `what`, for an unknown one and one that does not fit.
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
        found.append(fitting[0])
    return tuple(found)
