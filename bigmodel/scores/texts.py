"""Scores of generated texts."""

import re
from collections import Counter
from collections.abc import Sequence

from bigmodel.scores.counts import f1, mean
from bigmodel.scores.results import Results

WORD = re.compile('[a-z0-9]+')
SIDES = ('prediction', 'target')


def bleu(results: Results) -> dict[str, float]:
    """`bleu`, 0 to 100, of all texts together (Papineni et al. 2002), as sacreBLEU counts words and
    smooths (Post 2018).
    """
    import sacrebleu

    said, right = ([getattr(text, which) for text in results.texts] for which in SIDES)
    return {'bleu': sacrebleu.corpus_bleu(said, [right]).score}


def rouge(results: Results) -> dict[str, float]:
    """`rouge1`, `rouge2` and `rougeL`, the mean F1 of words, of pairs of them and of the longest
    common subsequence (Lin 2004), of small letters and digits, without stemming.
    """
    pairs = [tuple(words(getattr(text, which)) for which in SIDES) for text in results.texts]
    return {
        'rouge1': mean(ngram_f1(*pair, 1) for pair in pairs),
        'rouge2': mean(ngram_f1(*pair, 2) for pair in pairs),
        'rougeL': mean(f1(longest_common(*pair), *map(len, pair)) for pair in pairs),
    }


def exact_match(results: Results) -> dict[str, float]:
    """`exact_match`, the share of texts that are the right one but for space around them."""
    same = (text.prediction.strip() == text.target.strip() for text in results.texts)
    return {'exact_match': mean(map(float, same))}


def words(text: str) -> list[str]:
    """As ROUGE counts them: runs of letters and digits of ASCII."""
    return WORD.findall(text.lower())


def ngram_f1(said: Sequence[str], right: Sequence[str], size: int) -> float:
    """F1 of runs of `size` words, each counted as often as both have it."""
    ours, theirs = (
        Counter(tuple(text[i : i + size]) for i in range(len(text) - size + 1))
        for text in (said, right)
    )
    return f1((ours & theirs).total(), ours.total(), theirs.total())


def longest_common(said: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(right) + 1)
    for word in said:
        before = best
        best = [0]
        for i, other in enumerate(right):
            best.append(before[i] + 1 if word == other else max(before[i + 1], best[i]))
    return best[-1]
