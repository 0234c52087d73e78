"""Scores of answers as texts, in SQuAD's definition."""

import re
import string
from collections import Counter
from collections.abc import Iterator

from bigmodel.scores.counts import f1, mean
from bigmodel.scores.results import Results

ARTICLES = re.compile(r'\b(a|an|the)\b')


def span_exact_match(results: Results) -> dict[str, float]:
    """`exact_match`, the share of answers that are the right text (Rajpurkar et al. 2016, §6.1)."""
    return {'exact_match': mean(float(exact_match(*pair)) for pair in _texts(results))}


def span_f1(results: Results) -> dict[str, float]:
    """`f1`, the mean overlap of answers with the right text (Rajpurkar et al. 2016, §6.1)."""
    return {'f1': mean(overlap(*pair) for pair in _texts(results))}


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
    """The text of a span of tokens; '' of the span that is no answer."""
    start, end = results.rows[which][row].tolist()
    return results.decode(results.rows['tokens'][row, start : end + 1]) if end else ''


def _texts(results: Results) -> Iterator[tuple[str, str]]:
    counted = results.counted()
    for row in range(len(counted.rows['weight'])):
        yield answer(counted, row, 'prediction'), answer(counted, row, 'target')
