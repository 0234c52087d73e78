"""Scores of one number a row: how it goes along with the right one."""

import numpy as np
from jaxtyping import Float

from bigmodel.scores.results import Results

Numbers = Float[np.ndarray, ' n']


def pearson(results: Results) -> dict[str, float]:
    """`pearson`, the linear correlation; NaN where either is always the same."""
    return {'pearson': correlation(*_pairs(results))}


def spearman(results: Results) -> dict[str, float]:
    """`spearman`, the correlation of ranks, ties having their mean rank."""
    return {'spearman': correlation(*(ranks(x) for x in _pairs(results)))}


def correlation(x: Numbers, y: Numbers) -> float:
    """Pearson's."""
    x, y = (v - v.mean() if len(v) else v for v in (x, y))
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else float('nan')


def ranks(x: Numbers) -> Numbers:
    """From 0; equal numbers share the mean of their ranks."""
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[which]


def _pairs(results: Results) -> tuple[Numbers, Numbers]:
    rows = results.counted().rows
    return rows['prediction'].astype(float), rows['target'].astype(float)
