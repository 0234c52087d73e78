"""The best evaluation of a run so far, and whether it is still getting better."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bigmodel import config as config_lib
from bigmodel import hosts
from bigmodel.errors import UserError, nearest
from bigmodel.training.writers import read_jsonl

# Which way is better, of values that are known by name.
BETTER = {
    **dict.fromkeys(
        ('loss', 'nll', 'mse', 'mae', 'bits_per_byte', 'perplexity', 'divergence'), 'min'
    ),
    **dict.fromkeys(
        ('accuracy', 'f1', 'f1_macro', 'precision', 'recall', 'matthews', 'pearson', 'spearman'),
        'max',
    ),
    **dict.fromkeys(('exact_match', 'margin'), 'max'),
}


@dataclasses.dataclass(frozen=True)
class Best:
    """The best value of a metric, and how many evaluations ago that was; step 0: none yet."""

    step: int = 0
    value: float = math.nan
    since: int = 0


@dataclasses.dataclass(frozen=True)
class Watched:
    """'EVALUATION/METRIC: better=min patience=3 least=0.01', or '' for nothing.

    A value is better when it is so by more than `least`; `patience` evaluations in a row without a
    better one are the end.
    """

    evaluation: str = ''
    metric: str = ''
    better: str = 'min'
    patience: int = 0
    least: float = 0.0

    def best(self, path: pathlib.Path) -> Best:
        """Of the records of a metrics.jsonl; the first of equals. NaN is never better."""
        found, sign = Best(), 1 if self.better == 'max' else -1
        for step, value in self.values(path):
            first = not found.step and not math.isnan(value)
            if first or sign * (value - found.value) > self.least:
                found = Best(step, value)
            else:
                found = dataclasses.replace(found, since=found.since + 1)
        return found

    def values(self, path: pathlib.Path) -> Iterator[tuple[int, float]]:
        """(step, value) of each evaluation in a metrics.jsonl, in order."""
        for record in read_jsonl(path) if self.metric else ():
            if record['split'] == self.evaluation:
                # Nothing may have counted for it in this evaluation, though not in others.
                yield record['step'], float(record.get(self.metric, math.nan))

    def check(self, names: Callable[[str], Iterable[str]], what: str) -> None:
        """Raises UserError for a metric that is none of the `names` that its evaluation logs."""
        there = tuple(names(self.evaluation)) if self.metric else ('',)
        if self.metric not in there:
            raise UserError(
                f'{what}: evals.{self.evaluation} logs no {self.metric!r}.'
                f'{nearest(self.metric, there)} It logs: {", ".join(there)}'
            )

    def told(self, best: Best) -> dict[str, Any] | None:
        """What result.json says of it."""
        if not best.step:
            return None
        metric = f'{self.evaluation}/{self.metric}'
        return {'metric': metric, 'step': best.step, 'value': best.value}

    def reason_to_stop(self, path: pathlib.Path) -> str:
        """What a run that has not got better ends with, from its metrics.jsonl; '' to go on."""
        best = self.best(path)
        if not self.patience or best.since < self.patience:
            return ''
        return (
            f'{self.evaluation}/{self.metric} has not been better than {best.value:.4f} of step '
            f'{best.step} for {best.since} evaluations'
        )


def watched(text: str, evaluations: Iterable[str], what: str, patience: bool) -> Watched:
    """Reads `checkpoint.best` or, with `patience`, `stop_early`; raises UserError."""
    name, _, rest = text.partition(':')
    evaluation, slash, metric = name.strip().partition('/')
    if not text:
        return Watched()
    given = config_lib.pairs(rest, what)
    allowed = ('better', 'patience', 'least') if patience else ('better',)
    wrong = [key for key in given if key not in allowed]
    if not slash or not metric or wrong or (patience and 'patience' not in given):
        shown = ', '.join(wrong) or text
        raise UserError(
            f"{what}: cannot read {shown!r}; write 'validation/loss"
            + (": patience=3'" if patience else "'")
            + f' with any of {", ".join(allowed)}'
        )
    evaluations = list(evaluations)
    if evaluation not in evaluations:
        raise UserError(f'{what}: evals has no {evaluation!r}; there: {", ".join(evaluations)}')
    better = given.get('better', BETTER.get(metric, ''))
    if better not in ('min', 'max'):
        raise UserError(
            f"{what}: which way is {metric!r} better? Write '{evaluation}/{metric}: better=min' "
            f'or better=max'
        )
    try:
        numbers = int(given.get('patience', 0)), float(given.get('least', 0))
    except ValueError as e:
        raise UserError(f'{what}: cannot read {rest.strip()!r} as numbers; {e}') from e
    if numbers[0] < patience or not 0 <= numbers[1] < float('inf'):
        raise UserError(f'{what}: patience must be at least 1, and least not negative')
    return Watched(evaluation, metric, better, *numbers)


def agreed(decide: Callable[[], tuple[Best, str]]) -> tuple[Best, str]:
    """What `decide` says on the first host, of whose files others may see an older state."""

    def told() -> tuple[tuple, str]:
        best, ended = decide()
        return dataclasses.astuple(best), ended

    best, ended = hosts.from_first(told)
    return Best(*best), ended


def best_step(run: pathlib.Path, what: str) -> int:
    """The step of a run's best checkpoint; raises UserError when it keeps none."""
    config = config_lib.read_json(run / 'config.json')
    best = watched(config.checkpoint.best, config.evals, 'checkpoint.best', patience=False)
    step = best.best(run / 'metrics.jsonl').step
    if not step:
        raise UserError(
            f"{what}: {run} has no best checkpoint; train it with checkpoint.best='validation/loss'"
        )
    return step
