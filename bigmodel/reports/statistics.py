"""Arms against the baseline, by differences that are paired over seeds.

A seed fixes the initialisation and the order of the data, so that runs of one seed have noise in
common, which a paired difference does not. Tests are paired t-tests; over the arms they are
corrected by the false discovery rate (Benjamini & Hochberg 1995), which under the hypothesis that
no arm differs is also the rate of any false verdict.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from scipy import stats

from bigmodel.reports.gathered import Arm, Gathered, deviation
from bigmodel.reports.noise import LEVEL, Noise, seeds_needed

FEWEST = 3  # seeds: with two, the 95 % interval is 12.7 standard errors wide on each side
VERDICTS = (
    'baseline',
    'better',
    'worse',
    'within noise',
    'too few seeds',
    'pruned',
    'failed',
    'not finished',
)


@dataclasses.dataclass(frozen=True)
class Compared:
    """One arm: its mean, and its difference to the baseline (NaN where there is none).

    `low` and `high` are the ends of the 95 % interval of the difference, `q` its p-value corrected
    for the number of arms.
    """

    arm: Arm
    mean: float
    deviation: float
    seeds: int  # that it has in common with the baseline
    difference: float
    low: float
    high: float
    q: float
    verdict: str

    def needed(self, known: Noise) -> int:
        """Seeds that would show a difference of this size 4 times of 5; 0 where that is unknown."""
        if not self.difference or math.isnan(self.difference) or not known.paired > 0:
            return 0
        needed = seeds_needed(self.difference / known.paired)
        return max(needed, FEWEST) if needed else 0


def compare(found: Gathered) -> list[Compared]:
    """Every arm in the order of the plan."""
    differences = {arm.name: arm.minus(found.base) for arm in found.arms}
    p_values = {
        name: _p_value(values) for name, values in differences.items() if name != found.baseline
    }
    known = {name: p for name, p in p_values.items() if not math.isnan(p)}
    q_values = (
        dict(zip(known, stats.false_discovery_control([*known.values()]), strict=True))
        if known
        else {}
    )
    return [_compared(found, arm, differences[arm.name], q_values) for arm in found.arms]


def _compared(
    found: Gathered, arm: Arm, differences: Sequence[float], q_values: dict[str, float]
) -> Compared:
    values = [run.value for run in arm.done.values()]
    mean = statistics.fmean(values) if values else math.nan
    difference = statistics.fmean(differences) if differences else math.nan
    low, high = interval(differences)
    q = float(q_values.get(arm.name, math.nan))
    if arm.name == found.baseline:
        return Compared(arm, mean, deviation(values), len(values), *[math.nan] * 4, 'baseline')
    if not values:
        verdict = _unfinished(arm)
    elif len(differences) < FEWEST:
        verdict = 'too few seeds'
    elif q < LEVEL:
        verdict = 'better' if found.sign * difference > 0 else 'worse'
    else:
        verdict = 'within noise'
    return Compared(
        arm, mean, deviation(values), len(differences), difference, low, high, q, verdict
    )


def _unfinished(arm: Arm) -> str:
    """Why an arm has no value: pruned or failed once all of its runs have ended, one of them so."""
    states = {run.outcome for run in arm.runs}
    if states & {'running', 'stopped', 'waiting'}:
        return 'not finished'
    return 'pruned' if 'pruned' in states else 'failed'


def _p_value(differences: Sequence[float]) -> float:
    if len(differences) < FEWEST:
        return math.nan
    # The same difference at every seed, but for rounding: a metric too coarse to show its noise.
    if deviation(differences) < 1e-9 * max(map(abs, differences)) or not any(differences):
        return 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def interval(values: Sequence[float], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Of the mean, by Student's t; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * deviation(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return float(mean - half), float(mean + half)
