"""Length extrapolation: a causal model's loss by position, also beyond its training length.

Press et al. 2021 ("Train Short, Test Long") compare position encodings in this way.
"""

import itertools
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bigmodel.models.heads import Outputs
from bigmodel.models.model import apply
from bigmodel.tasks.task import Batch
from bigmodel.training.batches import put_batch
from bigmodel.training.setup import Setup

Row = dict[str, int | float | bool]  # a range of positions, its means, and whether it is beyond


class ByPosition(NamedTuple):
    """Sums over tokens by their position in the document (0 is the first that is predicted)."""

    nll: Float[Array | np.ndarray, ' L']
    correct: Float[Array | np.ndarray, ' L']
    count: Float[Array | np.ndarray, ' L']


def by_position(setup: Setup, params: Any, split: str, num_batches: int) -> ByPosition:
    """Sums over `num_batches` batches of `split`, evenly spread (0: all), in rows of `seq_len`."""
    data, length = setup.open_split(split), setup.config.data.seq_len
    step = jax.jit(lambda params, batch: _sums(setup, params, batch, length))
    there = data.batches.num_batches
    count = min(num_batches or there, there)
    total = [np.zeros(length)] * 3
    for i in range(count):
        batch = put_batch(data.batches(i * there // count), setup.sharding)
        # Waits for each batch, as `evaluate` does.
        sums = jax.device_get(step(params, batch))
        total = [a + b for a, b in zip(total, sums, strict=True)]
    return ByPosition(*total)


def _sums(setup: Setup, params: Any, batch: Batch, length: int) -> ByPosition:
    def model(*args: Any, **kwargs: Any) -> Outputs:
        return apply(setup.model, params, *args, **kwargs)

    each = setup.task.by_token(model, batch, None)
    at_BL = batch['positions'][:, :-1] if 'positions' in batch else jnp.arange(length)[None]
    at_BL = jnp.broadcast_to(at_BL, each.nll.shape)

    def add(values: jax.Array) -> jax.Array:
        return jnp.zeros(length).at[at_BL].add(values * each.weight)

    return ByPosition(add(each.nll), add(each.correct), add(jnp.ones_like(each.nll)))


def table(sums: ByPosition, trained: int, bins: int = 16) -> list[Row]:
    """Means over equal ranges of positions; `beyond` marks those past the training length."""
    edges = np.linspace(0, len(sums.count), bins + 1).astype(int)
    rows = []
    for begin, end in itertools.pairwise(edges):
        count = float(sums.count[begin:end].sum())
        if count:
            nll, correct = sums.nll[begin:end].sum(), sums.correct[begin:end].sum()
            rows.append(
                {
                    'begin': int(begin),
                    'end': int(end),
                    'nll': float(nll / count),
                    'accuracy': float(correct / count),
                    'tokens': count,
                    'beyond': bool(end > trained),
                }
            )
    return rows


def summary(rows: list[Row], trained: int) -> str:
    """The mean loss at positions that the run trained on, and beyond them."""
    parts = []
    for beyond, where in ((False, f'up to {trained} tokens'), (True, 'beyond')):
        chosen = [r for r in rows if r['beyond'] == beyond]
        tokens = sum(r['tokens'] for r in chosen)
        if tokens:
            parts.append(f'{sum(r["nll"] * r["tokens"] for r in chosen) / tokens:.3f} {where}')
    return 'loss ' + ', '.join(parts)


def draw(tables: dict[str, list[Row]], trained: int, picture: pathlib.Path) -> None:
    """Draws loss and accuracy against the position, a line a run, with the training length."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    # Colours first, then dashes: 30 lines differ.
    lines = plt.cycler(linestyle=['-', '--', ':']) * plt.cycler(color=plt.cm.tab10.colors)
    for ax, key, label in zip(axes, ('nll', 'accuracy'), ('loss (nats)', 'accuracy'), strict=True):
        ax.set_prop_cycle(lines)
        for name, rows in zip(_labels(tables), tables.values(), strict=True):
            middle = [(r['begin'] + r['end']) / 2 for r in rows]
            ax.plot(middle, [r[key] for r in rows], marker='o', markersize=3, label=name)
        ax.axvline(trained, color='grey', linestyle='--', linewidth=1)
        ax.set(xlabel='position (tokens)', ylabel=label)
        ax.grid(alpha=0.3)
    # The legend lists the lines as they end, from the highest loss down.
    handles, names = axes[0].get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: -handles[i].get_ydata()[-1])
    fig.tight_layout()
    axes[1].legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        loc='center left',
        bbox_to_anchor=(1.02, 0.5),
    )
    axes[0].set_title(f'dashed: training length, {trained} tokens', fontsize=10)
    fig.savefig(picture, dpi=120, bbox_inches='tight')
    plt.close(fig)


def _labels(names: Iterable[str]) -> list[str]:
    """Names without the folders that all of them share."""
    paths = [pathlib.PurePath(name).parts for name in names]
    levels = zip(*(parts[:-1] for parts in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ['/'.join(parts[shared:]) for parts in paths]
