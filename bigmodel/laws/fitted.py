"""A law fitted to runs: the points, the coefficients with their intervals, a file and a picture."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel.errors import UserError
from bigmodel.laws.isoflops import Profile, exponent, profiles
from bigmodel.laws.parametric import Law, bootstrap, fit
from bigmodel.reports.gathered import Gathered


@dataclasses.dataclass(frozen=True)
class Fitted:
    """`points` are (parameters, tokens, FLOPs, loss) of runs; intervals are 95 % of bootstraps."""

    law: Law
    intervals: Mapping[str, tuple[float, float]]
    points: tuple[tuple[float, float, float, float], ...]
    profiles: tuple[Profile, ...]
    metric: str

    @property
    def error(self) -> float:
        """The root mean square of the residuals, in nats."""
        residuals = [self.law.loss(n, d) - loss for n, d, _, loss in self.points]
        return float(np.sqrt(np.mean(np.square(residuals))))

    def to_json(self) -> dict[str, Any]:
        """As scaling.json holds it."""
        return dataclasses.asdict(self)


def fit_runs(found: Gathered, times: int = 200) -> Fitted:
    """The law of all finished runs; raises UserError where they cannot tell it."""
    runs = [run for arm in found.arms for run in arm.done.values()]
    runs = [run for run in runs if math.isfinite(run.value)]
    if found.better != 'min':
        raise UserError(f'a law is of a loss in nats, but {found.metric} is better when larger')
    points = tuple(
        (float(r.facts['num_params']), float(r.facts['tokens']), r.flops, r.value) for r in runs
    )
    columns = [list(column) for column in zip(*points, strict=True)] or [[], [], [], []]
    sizes, tokens, flops, losses = columns
    law = fit(sizes, tokens, losses)
    laws = bootstrap(sizes, tokens, losses, times)
    intervals = {
        key: tuple(
            float(v) for v in np.percentile([getattr(each, key) for each in laws], (2.5, 97.5))
        )
        for key in dataclasses.asdict(law)
    }
    return Fitted(law, intervals, points, tuple(profiles(sizes, flops, losses)), found.metric)


def told(fitted: Fitted) -> str:
    """The coefficients in words."""
    lines = [f'L(N, D) = E + A/N^alpha + B/D^beta of {len(fitted.points)} runs, {fitted.metric}:']
    for key, (low, high) in fitted.intervals.items():
        value = getattr(fitted.law, key)
        lines.append(f'  {key:<6} {value:>10.4g}  (95 % of bootstraps {low:.4g} to {high:.4g})')
    share = fitted.law.beta / (fitted.law.alpha + fitted.law.beta)
    lines.append(f'  runs are off by {fitted.error:.4f} nats (root mean square)')
    lines.append(f'best size: N ∝ C^{share:.3f}; N counts all parameters, C = 6·N·D')
    for profile in fitted.profiles:
        best = (
            f'{profile.best:,.0f} parameters' if profile.best else 'beyond the sizes that were run'
        )
        lines.append(f'  iso-FLOP profile of {profile.flops:.3g} FLOPs: best size {best}')
    power = exponent(fitted.profiles)
    if not math.isnan(power):
        lines.append(f'  so by the profiles N ∝ C^{power:.3f}')
    return '\n'.join(lines)


def read_law(path: str) -> tuple[Law, str, tuple[float, float]]:
    """A law of a scaling.json, what it is of, and the range of its FLOPs (6·N·D)."""
    try:
        plain = json.loads(pathlib.Path(path).read_text())
        flops = [6 * n * d for n, d, _, _ in plain['points']]
        about = f'{path}, fitted to {len(flops)} runs ({plain["metric"]})'
        return Law(**plain['law']), about, (min(flops), max(flops))
    except FileNotFoundError:
        raise UserError(f'--fit={path} does not exist; `launch.py scaling` writes one') from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as e:
        raise UserError(f'--fit={path} is no scaling.json ({e})') from e


def draw(fitted: Fitted, picture: pathlib.Path) -> None:
    """Losses by size with the law's curves for each number of tokens, and iso-FLOP profiles."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    columns = 2 if fitted.profiles else 1
    figure, axes = plt.subplots(1, columns, figsize=(6.4 * columns, 4.4), squeeze=False)
    _draw_law(axes[0, 0], fitted, plt)
    if fitted.profiles:
        _draw_profiles(axes[0, 1], fitted.profiles, plt)
    for ax in axes[0]:
        ax.set(xscale='log', xlabel='parameters', ylabel=f'{fitted.metric} (nats)')
        ax.grid(alpha=0.3, which='both')
        ax.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _draw_law(ax: Any, fitted: Fitted, plt: Any) -> None:
    sizes = np.array([n for n, *_ in fitted.points])
    tokens = np.array([d for _, d, *_ in fitted.points])
    low, high = np.log10(tokens.min()), np.log10(tokens.max())
    norm = plt.Normalize(low, high)
    ax.scatter(sizes, [p[3] for p in fitted.points], c=np.log10(tokens), cmap='viridis', norm=norm)
    line = np.geomspace(sizes.min(), sizes.max())
    for log_d in np.linspace(low, high, 4):
        losses = [fitted.law.loss(n, 10**log_d) for n in line]
        label = f'law, {10**log_d:.2g} tokens'
        ax.plot(line, losses, color=plt.cm.viridis(norm(log_d)), linewidth=1, label=label)


def _draw_profiles(ax: Any, found: Sequence[Profile], plt: Any) -> None:
    for i, profile in enumerate(found):
        colour = plt.cm.viridis(i / max(len(found) - 1, 1))
        sizes, losses = zip(*profile.points, strict=True)
        line = np.geomspace(sizes[0], sizes[-1])
        ax.plot(sizes, losses, 'o', color=colour, label=f'{profile.flops:.2g} FLOPs')
        ax.plot(line, np.polyval(profile.parabola, np.log(line)), color=colour, linewidth=1)
        if profile.best:
            lowest = np.polyval(profile.parabola, np.log(profile.best))
            ax.plot([profile.best], [lowest], 'x', color='black', markersize=8)
