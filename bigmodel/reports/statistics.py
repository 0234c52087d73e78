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

from bigmodel.reports.gathered import Arm, Gathered

FEWEST = 3  # seeds: with two, the 95 % interval is 12.7 standard errors wide on each side
LEVEL = 0.05
VERDICTS = ('baseline', 'better', 'worse', 'within noise', 'too few seeds', 'not finished')


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


def compare(found: Gathered) -> list[Compared]:
    """Every arm in the order of the plan."""
    base = {seed: run.value for seed, run in found.base.done.items()}
    differences = {arm.name: _paired(arm, base) for arm in found.arms}
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
        verdict = 'not finished'
    elif len(differences) < FEWEST:
        verdict = 'too few seeds'
    elif q < LEVEL:
        verdict = 'better' if found.sign * difference > 0 else 'worse'
    else:
        verdict = 'within noise'
    return Compared(
        arm, mean, deviation(values), len(differences), difference, low, high, q, verdict
    )


def _paired(arm: Arm, base: dict[int, float]) -> list[float]:
    return [run.value - base[seed] for seed, run in arm.done.items() if seed in base]


def _p_value(differences: Sequence[float]) -> float:
    if len(differences) < FEWEST:
        return math.nan
    if not deviation(differences):  # the same difference at every seed: the same run, or planted
        return 1.0 if not differences[0] else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def interval(values: Sequence[float], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Of the mean, by Student's t; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * deviation(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return float(mean - half), float(mean + half)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def noise_floor(compared: Sequence[Compared]) -> float:
    """The median of the arms' standard deviations over seeds: a diverging arm does not move it."""
    known = [c.deviation for c in compared if not math.isnan(c.deviation)]
    return statistics.median(known) if known else math.nan


def verdict(found: Gathered, compared: Sequence[Compared]) -> str:
    """The answer in a sentence or two."""
    finished = [c for c in compared if not math.isnan(c.mean)]
    if not finished:
        return 'No arm has finished yet.'
    best = max(finished, key=lambda c: found.sign * c.mean)
    base = next(c for c in compared if c.verdict == 'baseline')
    metric = found.metric
    if math.isnan(base.mean):
        return (
            f'The baseline {found.baseline} has not finished, so nothing is compared yet; best so '
            f'far is {best.arm.name} with {metric} {best.mean:.4f}.'
        )
    better = [c for c in compared if c.verdict == 'better']
    if better:
        top = max(better, key=lambda c: found.sign * c.difference)
        return (
            f'{top.arm.name} is better than {found.baseline}: {metric} {top.mean:.4f} against '
            f'{base.mean:.4f}, a difference of {top.difference:+.4f} (95 % interval '
            f'{top.low:+.4f} to {top.high:+.4f}, {top.seeds} seeds). '
            f'Of all {len(compared) - 1} arms compared with it: {_counts(compared)}.'
        )
    if all(c.verdict in ('too few seeds', 'not finished', 'baseline') for c in compared):
        return (
            f'Too few seeds for a verdict ({FEWEST} are needed): by its mean {best.arm.name} is '
            f'best with {metric} {best.mean:.4f}, {found.baseline} has {base.mean:.4f}.'
        )
    return (
        f'No arm is distinguishably better than {found.baseline} ({metric} {base.mean:.4f}): '
        f'{_counts(compared)}. Best by its mean is {best.arm.name} with {best.mean:.4f}.'
    )


def _counts(compared: Sequence[Compared]) -> str:
    """'2 better, 1 worse'."""
    counts = {name: sum(c.verdict == name for c in compared) for name in VERDICTS[1:]}
    return ', '.join(f'{n} {name}' for name, n in counts.items() if n)
