"""All that a set of runs says of scaling, as text and as scaling.json."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigmodel.laws import bootstrap, parametric, profiles
from bigmodel.laws.fitted import COEFFICIENTS
from bigmodel.laws.law import PUBLISHED, Law, to_json
from bigmodel.laws.points import Points
from bigmodel.laws.profiles import Power, Profile

WORDS = {'all': 'all parameters', 'non_embedding': 'parameters that are no embeddings'}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A law with those of resamples, and the profiles with those of resamples."""

    points: Points
    law: Law
    draws: tuple[Law, ...]
    profiles: tuple[Profile, ...]
    powers: tuple[Power, Power] | None
    power_draws: tuple[tuple[Power, Power], ...]
    resamples: int

    @functools.cached_property
    def errors(self) -> np.ndarray:
        """log L minus that of the law, of every run."""
        p = self.points
        return np.log(p.loss) - np.log(self.law.loss(p.params, p.tokens))


def scaling(points: Points, resamples: int) -> Scaling:
    """Fits both; raises UserError where no law can be fitted."""
    law = parametric.fit(points)
    found = tuple(profiles.profiles(points))
    return Scaling(
        points=points,
        law=law,
        draws=tuple(bootstrap.laws(points, law, resamples)),
        profiles=found,
        powers=profiles.powers(found),
        power_draws=tuple(bootstrap.optima(points, resamples)) if len(found) > 1 else (),
        resamples=resamples,
    )


def text(found: Scaling) -> str:
    """What was found, with intervals."""
    p, law = found.points, found.law
    each = p.flops / (p.params * p.tokens)
    lines = [
        f'{len(p)} runs ({p.skipped} unfinished ones left out), {p.metric} in nats; N counts '
        f'{WORDS[p.counts]}, C = {law.flops_per_weight:.3g}·N·D ({each.min():.3g} to '
        f'{each.max():.3g} from run to run)',
        '',
        'L(N, D) = E + A/N^alpha + B/D^beta   95 % interval of the bootstrap over runs',
    ]
    for name in COEFFICIENTS:
        values = [getattr(draw, name) for draw in found.draws]
        lines.append(f'  {name:<6} {getattr(law, name):>10.5g}   {_interval(values)}')
    off = 100 * np.abs(found.errors)
    lines.append(f'  off by {np.median(off):.2g} % in the median run, {off.max():.2g} % at most')
    exponents = [draw.exponent for draw in found.draws]
    lines += ['', f'N_opt ∝ C^a by the law: a {law.exponent:.3f}   {_interval(exponents)}']
    lines.append(_profiles(found))
    lines += [
        f'  {name}: a {there.exponent:.3f} ({there.source})' for name, there in PUBLISHED.items()
    ]
    return '\n'.join(lines)


def _profiles(found: Scaling) -> str:
    """What approach 2 finds, in a line."""
    if not found.powers:
        return (
            f'N_opt ∝ C^a by iso-FLOP profiles: {len(found.profiles)} budgets have their best size '
            f'between two others, and it takes two'
        )
    exponents = [n.exponent for n, _ in found.power_draws]
    return (
        f'N_opt ∝ C^a by {len(found.profiles)} iso-FLOP profiles: a {found.powers[0].exponent:.3f}'
        f'   {_interval(exponents)} ({len(exponents)} of {found.resamples} resamples have one)'
    )


def _interval(values: Sequence[float]) -> str:
    low, high = bootstrap.interval(values)
    return 'not known' if math.isnan(low) else f'{low:.5g} to {high:.5g}'


def as_json(found: Scaling) -> dict[str, Any]:
    """scaling.json: what `size` reads, and the profiles."""
    return {
        'law': to_json(found.law),
        'metric': found.points.metric,
        'vocab_size': found.points.vocab_size,
        'intervals': {
            name: bootstrap.interval([getattr(draw, name) for draw in found.draws])
            for name in COEFFICIENTS
        },
        'draws': [[getattr(draw, name) for name in COEFFICIENTS] for draw in found.draws],
        'profiles': [dataclasses.asdict(profile) for profile in found.profiles],
        'powers': [dataclasses.asdict(power) for power in found.powers or ()],
    }
