"""scaling.png: loss by size, the best size by FLOPs, and what the law leaves unexplained."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use('Agg')
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from bigmodel.laws import bootstrap
from bigmodel.laws.profiles import budgets
from bigmodel.laws.scaling import Scaling

LENGTHS = 8  # curves of numbers of tokens, where there are no budgets


def draw(found: Scaling, path: pathlib.Path) -> None:
    """Writes the picture."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout='constrained')
    _losses(axes[0], found)
    _optima(axes[1], found)
    _errors(axes[2], found)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.xaxis.set_minor_formatter(NullFormatter())  # of less than a decade they would overlap
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _losses(ax: Any, found: Scaling) -> None:
    """The loss by size at each budget; where there are none, after each number of tokens."""
    groups = budgets(found.points)
    _by_budget(ax, found, groups) if groups else _by_tokens(ax, found)
    ax.set(xscale='log', xlabel='parameters N', ylabel=f'{found.points.metric} (nats a token)')
    ax.legend(fontsize=8, title='solid: the law; dashed: parabola' if groups else 'the law')


def _by_budget(ax: Any, found: Scaling, groups: list[tuple[int, ...]]) -> None:
    p, law = found.points, found.law
    parabolas = {profile.runs: profile for profile in found.profiles}
    for runs, colour in zip(groups, _colours(len(groups)), strict=True):
        chosen = p.chosen(np.array(runs))
        flops = float(np.exp(np.log(chosen.flops).mean()))
        sizes = np.geomspace(chosen.params.min() / 1.3, chosen.params.max() * 1.3, 100)
        # The FLOPs a token are not quite proportional to N: go by what the runs of the budget took.
        line = np.polyfit(np.log(chosen.params), np.log(chosen.tokens), 1)
        tokens = np.exp(np.polyval(line, np.log(sizes)))
        ax.plot(chosen.params, chosen.loss, 'o', color=colour, label=f'{flops:.2g} FLOPs')
        ax.plot(sizes, law.loss(sizes, tokens), color=colour, linewidth=1.2)
        if runs in parabolas:
            best = parabolas[runs]
            ax.plot(sizes, np.polyval(best.curve, np.log(sizes)), '--', color=colour, linewidth=1)
            ax.plot(best.params, best.loss, '*', color=colour, markersize=13, markeredgecolor='k')
    margin = 0.1 * (p.loss.max() - p.loss.min())
    ax.set_ylim(p.loss.min() - margin, p.loss.max() + margin)


def _by_tokens(ax: Any, found: Scaling) -> None:
    p = found.points
    sizes = np.geomspace(p.params.min() / 1.3, p.params.max() * 1.3, 100)
    lengths = np.unique(p.tokens)
    lengths = lengths[np.linspace(0, len(lengths) - 1, min(len(lengths), LENGTHS)).astype(int)]
    for length, colour in zip(lengths, _colours(len(lengths)), strict=True):
        ax.plot(sizes, found.law.loss(sizes, length), color=colour, label=f'{length:.2g} tokens')
    span = np.log(lengths[-1] / lengths[0]) or 1.0
    where = 0.9 * np.log(p.tokens / lengths[0]) / span
    ax.scatter(p.params, p.loss, c=plt.cm.viridis(where), s=22)
    ax.margins(y=0.2)  # room for the legend


def _colours(count: int) -> Any:
    return plt.cm.viridis(np.linspace(0, 0.9, count))


def _optima(ax: Any, found: Scaling) -> None:
    """The best size by FLOPs, with the 95 % band of the law."""
    p, law = found.points, found.law
    flops = np.geomspace(p.flops.min() / 2, p.flops.max() * 10, 60)
    ax.scatter(p.flops, p.params, s=14, color='0.6', label='runs')
    drawn = [d.optimum(flops)[0] for d in found.draws if d.alpha > 0 and d.beta > 0]
    if drawn:
        low, high = np.array(
            [bootstrap.interval(column) for column in np.transpose(drawn).tolist()]
        ).T
        ax.fill_between(flops, low, high, color='tab:blue', alpha=0.15)
    ax.plot(flops, law.optimum(flops)[0], color='tab:blue', label=f'law: C^{law.exponent:.2f}')
    if found.powers:
        best = found.profiles
        label = f'profiles: C^{found.powers[0].exponent:.2f}'
        ax.plot(flops, found.powers[0](flops), '--', color='tab:orange', label=label)
        ax.plot(
            [b.flops for b in best],
            [b.params for b in best],
            '*',
            color='tab:orange',
            markersize=12,
        )
    ax.set(xscale='log', yscale='log', xlabel='training FLOPs C', ylabel='best parameters N')
    shown = [*p.params, *law.optimum(flops)[0]]
    ax.set_ylim(min(shown) / 2, max(shown) * 2)
    ax.legend(fontsize=8)


def _errors(ax: Any, found: Scaling) -> None:
    """How far each run is from the law: a pattern here is what the form cannot say."""
    p = found.points
    dots = ax.scatter(p.tokens, 100 * found.errors, c=np.log10(p.params), s=22)
    ax.axhline(0, color='0.2', linewidth=0.8)
    ax.set(xscale='log', xlabel='tokens D', ylabel='loss over that of the law (%)')
    ax.figure.colorbar(dots, ax=ax, label='log10 N')
