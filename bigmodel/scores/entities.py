"""Scores of a class for each word: of entities where the classes mark where these begin."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from bigmodel.scores.classes import f1 as f1_of_classes
from bigmodel.scores.counts import f1 as f1_of_counts
from bigmodel.scores.results import Results

Entity = tuple[int, int, str]  # first word, last word, kind


def f1(results: Results) -> dict[str, float]:
    """`f1`, `precision` and `recall` of entities (Tjong Kim Sang & De Meulder 2003) where classes
    are O, B-kind and I-kind; else `f1_macro` (of two classes `f1`) of words.

    An entity is right when its first word, its last one and its kind are. A word is what its first
    token was taken for (Devlin et al. 2018, §5.3). No entity crosses the end of a row.
    """
    texts = list(words(results))
    if not marks_entities(results.classes):
        prediction, target = (np.array([w for t in texts for w in t[i]], int) for i in range(2))
        rows = {'prediction': prediction, 'target': target, 'weight': np.ones(len(target))}
        return f1_of_classes(Results({}, rows, results.classes, results.decode))
    counts: Counter[str] = Counter()
    for predicted, right in texts:
        ours, theirs = (
            set(entities([results.classes[c] for c in tags])) for tags in (predicted, right)
        )
        counts.update(hits=len(ours & theirs), named=len(ours), wanted=len(theirs))
    hits, named, wanted = (counts[k] for k in ('hits', 'named', 'wanted'))
    return {
        'f1': f1_of_counts(hits, named, wanted),
        'precision': hits / max(named, 1),
        'recall': hits / max(wanted, 1),
    }


def marks_entities(classes: Sequence[str]) -> bool:
    """Whether all classes are O, B-kind or I-kind."""
    kinds = {name[:2] for name in classes}
    return kinds <= {'O', 'B-', 'I-'} and 'B-' in kinds


def words(results: Results) -> Iterator[tuple[list[int], list[int]]]:
    """Of each text the classes of its words: predicted, and right.

    Tokens of class −1 stand between words; `segments` are the number of a text in its row.
    """
    rows = results.counted().rows
    for predicted, target, segments in zip(
        *(rows[k] for k in ('prediction', 'target', 'segments')), strict=True
    ):
        begins = (target >= 0) & (np.concatenate([[-1], target[:-1]]) < 0)
        for text in np.unique(segments[begins]):
            here = begins & (segments == text)
            yield predicted[here].tolist(), target[here].tolist()


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """Runs of words of one kind. An I- after another kind, or after O, begins an entity too, as in
    the script of CoNLL-2000.
    """
    start, kind = 0, ''
    for i, tag in enumerate([*tags, 'O']):
        prefix, _, here = tag.partition('-')
        if kind and (prefix != 'I' or here != kind):
            yield start, i - 1, kind
            kind = ''
        if prefix in ('B', 'I') and not kind:
            start, kind = i, here
