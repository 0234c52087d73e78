"""Scores of one class a row, from the confusion matrix."""

import numpy as np
from jaxtyping import Int

from bigmodel.scores.results import Results


def f1(results: Results) -> dict[str, float]:
    """`f1` of the second of two classes; of more classes `f1_macro`, the mean over those that were
    predicted or are right somewhere.
    """
    counts_CC = confusion(results)
    hits, wanted, named = counts_CC.diagonal(), counts_CC.sum(1), counts_CC.sum(0)
    there = wanted + named
    f1_C = 2 * hits / np.maximum(there, 1)
    if len(f1_C) == 2:
        return {'f1': float(f1_C[1])}
    return {'f1_macro': float(f1_C[there > 0].mean()) if there.any() else float('nan')}


def matthews(results: Results) -> dict[str, float]:
    """`matthews`, the correlation of predictions and targets (Matthews 1975; of more than two
    classes Gorodkin 2004); 0 where either is always the same.
    """
    counts_CC = confusion(results).astype(float)
    wanted, named, n = counts_CC.sum(1), counts_CC.sum(0), counts_CC.sum()
    both = n * counts_CC.trace() - wanted @ named
    spread = np.sqrt(n**2 - wanted @ wanted) * np.sqrt(n**2 - named @ named)
    return {'matthews': float(both / spread) if spread else 0.0}


def confusion(results: Results) -> Int[np.ndarray, 'C C']:
    """How often class i (first dimension) was taken for class j."""
    size = len(results.classes)
    rows = results.counted().rows
    pairs = rows['target'].astype(np.int64) * size + rows['prediction']
    return np.bincount(pairs, minlength=size * size).reshape(size, size)
