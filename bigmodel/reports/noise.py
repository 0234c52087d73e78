"""How large the noise of seeds is, and what it means for the difference of two arms."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from bigmodel.reports.gathered import Gathered

LEVEL = 0.05
POWER = 0.8  # how often a difference ought to be found (Cohen 1988)
UNSTEADY = 0.001  # level of the test that leaves an arm out of the noise
MOST_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Noise:
    """`floor` is the standard deviation over seeds, pooled over arms, with `freedom` degrees of
    freedom; `paired` is that of differences to the baseline at the same seed. NaN where unknown.

    `unsteady` are the arms left out, whose seeds are further apart than the others' (a diverging
    arm is no noise floor); `seeds` is the most that any arm has, `arms` how many are compared.
    """

    floor: float
    freedom: int
    paired: float
    unsteady: tuple[str, ...]
    seeds: int
    arms: int

    @property
    def reach(self) -> float:
        """By how much the means of two equal arms differ at most, 19 times of 20, unpaired."""
        if not self.freedom:
            return math.nan
        t = float(stats.t.ppf(1 - LEVEL / 2, self.freedom))
        return t * self.floor * math.sqrt(2 / self.seeds)

    @property
    def luck(self) -> float:
        """By how much the best of the arms leads their mean when all are equal."""
        return self.luck_of(self.arms, self.seeds)

    def luck_of(self, arms: int, seeds: int) -> float:
        """By how much the best of so many equal arms leads their mean (Blom 1958)."""
        rank = (arms - 0.375) / (arms + 0.25)
        return float(stats.norm.ppf(rank)) * self.floor / math.sqrt(seeds)


def noise(found: Gathered) -> Noise:
    """Of the finished runs."""
    values = {arm.name: [run.value for run in arm.done.values()] for arm in found.arms}
    variances = {
        name: (len(v) - 1, statistics.variance(v)) for name, v in values.items() if len(v) > 1
    }
    steady = _steady(variances)
    pairs = [
        arm.minus(found.base)
        for arm in found.arms
        if arm.name in steady and arm.name != found.baseline and found.baseline in steady
    ]
    return Noise(
        floor=pooled([*steady.values()]),
        freedom=sum(df for df, _ in steady.values()),
        paired=pooled([(len(d) - 1, statistics.variance(d)) for d in pairs if len(d) > 1]),
        unsteady=tuple(name for name in variances if name not in steady),
        seeds=max((len(v) for v in values.values()), default=0),
        arms=sum(bool(v) for v in values.values()),
    )


def pooled(variances: Sequence[tuple[int, float]]) -> float:
    """The standard deviation of (degrees of freedom, variance) together; NaN of none."""
    freedom = sum(df for df, _ in variances)
    return math.sqrt(sum(df * v for df, v in variances) / freedom) if freedom else math.nan


def _steady(variances: Mapping[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    """Without the arms whose variance is too large for an F-test against the others', the largest
    first (Cochran 1941); two arms say nothing of each other.
    """
    left = dict(variances)
    while len(left) > 2:
        largest = max(left, key=lambda name: left[name][1])
        df, variance = left[largest]
        others = [of for name, of in left.items() if name != largest]
        rest = pooled(others) ** 2
        ratio = variance / rest if rest else (math.inf if variance else 1.0)
        if stats.f.sf(ratio, df, sum(n for n, _ in others)) * len(left) >= UNSTEADY:
            break
        del left[largest]
    return left


def power(seeds: int, effect: float) -> float:
    """How often a paired t-test finds a difference of `effect` standard deviations of it."""
    df, shift = seeds - 1, abs(effect) * math.sqrt(seeds)
    edge = stats.t.ppf(1 - LEVEL / 2, df)
    return float(stats.nct.sf(edge, df, shift) + stats.nct.cdf(-edge, df, shift))


@functools.lru_cache(maxsize=4096)
def seeds_needed(effect: float) -> int:
    """The fewest seeds with which a test finds `effect` 4 times of 5; 0: not even `MOST_SEEDS`."""
    effect = min(abs(effect), 30.0)  # beyond, two seeds are enough, and scipy's tail is NaN
    ends = stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)
    if effect * math.sqrt(MOST_SEEDS) < ends + 0.01:
        return 0
    seeds = max(2, math.ceil((ends / effect) ** 2))  # were the deviation known: fewer never do
    while power(seeds, effect) < POWER:
        seeds += 1
    return seeds


def in_words(found: Noise) -> str:
    """A short paragraph."""
    if math.isnan(found.floor):
        return 'Every arm has one seed: how large the noise of seeds is cannot be told.'
    lines = [
        f'Seed noise: runs of one arm that differ in the seed alone have a standard deviation of '
        f'{found.floor:.2g} (pooled over arms, {found.freedom} degrees of freedom). Two arms that '
        f'are the same would differ by up to {found.reach:.2g} in their means of {found.seeds} '
        f'seeds, 19 times of 20.'
    ]
    if found.arms > 2:
        lines.append(
            f'The best of {found.arms} arms that are the same would lead their mean by about '
            f'{found.luck:.2g}, by luck.'
        )
    if not math.isnan(found.paired):
        lines.append(
            f'Differences at the same seed have a standard deviation of {found.paired:.2g} '
            f'(unpaired it would be {found.floor * math.sqrt(2):.2g}).'
        )
    if found.unsteady:
        lines.append(
            f'Left out of this, for seeds that are much further apart: {", ".join(found.unsteady)}.'
        )
    return ' '.join(lines)
