"""Scores of answers as texts, in SQuAD's definition."""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bigmodel.scores.counts import f1, mean
from bigmodel.scores.results import Results

ARTICLES = re.compile(r'\b(a|an|the)\b')


def span_exact_match(results: Results) -> dict[str, float]:
    """`exact_match`, the share of answers that are a right text (Rajpurkar et al. 2016, §6.1)."""
    return {'exact_match': mean(best(exact_match, *each) for each in _texts(results))}


def span_f1(results: Results) -> dict[str, float]:
    """`f1`, the mean overlap of answers with the right text that is closest (Rajpurkar et al. 2016,
    §6.1).
    """
    return {'f1': mean(best(overlap, *each) for each in _texts(results))}


def best(score: Callable[[str, str], float], answer: str, right: Sequence[str]) -> float:
    """The largest score over the right texts; one of articles and punctuation alone is none, as in
    the script of Rajpurkar et al. 2018.
    """
    right = [text for text in right if normalised(text)] or ['']
    return float(max(score(answer, text) for text in right))


def per_question(results: Results) -> Results:
    """One row for each question: the window whose best span has the largest sum of logits, or the
    window most certain of no answer, if that is more likely in it than any span elsewhere (Devlin
    et al. 2018, §4.3). Questions of which a window was not read are left out.
    """
    rows = results.rows
    order = np.argsort(rows['document'], kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(rows['document'][order])) + 1)
    found = [g for g in groups if len(g) and len(g) == rows['of_document'][g[0]]]
    spans = np.array([g[rows['score'][g].argmax()] for g in found], int)
    nones = np.array([g[rows['none'][g].argmin()] for g in found], int)
    answered = rows['score'][spans] > rows['none'][nones]
    kept = {k: v[np.where(answered, spans, nones)] for k, v in rows.items()}
    kept['prediction'] = rows['span'][spans] * answered[:, None]
    logits = np.where(answered, kept['score'], kept['none'])
    kept['confidence'] = np.exp(logits - kept['normaliser'])
    return dataclasses.replace(results, rows=kept)


def normalised(text: str) -> str:
    """In small letters, without punctuation and articles, one space between words."""
    kept = ''.join(c for c in text.lower() if c not in string.punctuation)
    return ' '.join(ARTICLES.sub(' ', kept).split())


def exact_match(answer: str, right: str) -> bool:
    """Whether both are the same when they are normalised."""
    return normalised(answer) == normalised(right)


def overlap(answer: str, right: str) -> float:
    """F1 of the words of an answer; without words on either side, whether there are none on both
    (Rajpurkar et al. 2018).
    """
    ours, theirs = normalised(answer).split(), normalised(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def answer(results: Results, row: int, which: str) -> str:
    """The text of a span of tokens; '' of the span that is no answer. A target is the first of the
    right texts.
    """
    if which == 'target':
        return right_texts(results, row)[0]
    return _span(results, row, which)


def right_texts(results: Results, row: int) -> tuple[str, ...]:
    """The texts of which each is right."""
    document = results.rows['document'][row] if 'document' in results.rows else 0
    return results.references(int(document)) or (_span(results, row, 'target'),)


def _span(results: Results, row: int, which: str) -> str:
    start, end = results.rows[which][row].tolist()
    return results.decode(results.rows['tokens'][row, start : end + 1]) if end else ''


def _texts(results: Results) -> Iterator[tuple[str, tuple[str, ...]]]:
    counted = per_question(results).counted()
    for row in range(len(counted.rows['weight'])):
        yield answer(counted, row, 'prediction'), right_texts(counted, row)
