"""Shares and F1, of which several scores are made."""

from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    """NaN of none."""
    found = list(values)
    return sum(found) / len(found) if found else float('nan')


def f1(hits: int, named: int, wanted: int) -> float:
    """The harmonic mean of hits/named and hits/wanted; 0 without a hit."""
    return 2 * hits / (named + wanted) if hits else 0.0
