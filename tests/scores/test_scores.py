"""Scores against scikit-learn, SciPy, seqeval and the cases of SQuAD's script."""

import collections
import dataclasses
import math
import re
import string

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.errors import UserError
from bigmodel.scores import answers, classes, entities, numbers, texts
from bigmodel.scores.results import Results, Text
from bigmodel.scores.table import SCORES, build_scores


def results(prediction, target, names=(), weight=None, **rows) -> Results:
    rows = {'prediction': np.asarray(prediction), 'target': np.asarray(target)} | rows
    rows['weight'] = np.ones(len(rows['target'])) if weight is None else np.asarray(weight)
    return Results({}, rows, tuple(names), ByteTokenizer().decode)


@pytest.mark.parametrize('size', [2, 3, 7])
@pytest.mark.parametrize('skewed', [False, True])
def test_scores_of_classes_are_scikit_learns(size, skewed) -> None:
    rng = np.random.default_rng(size)
    target = rng.integers(0, size - skewed, 60)  # skewed: the last class never occurs
    prediction = np.where(rng.random(60) < 0.5, target, rng.integers(0, size - skewed, 60))
    found = results(prediction, target, map(str, range(size)))
    assert classes.matthews(found)['matthews'] == pytest.approx(
        metrics.matthews_corrcoef(target, prediction)
    )
    if size == 2:
        want = {'f1': metrics.f1_score(target, prediction, zero_division=0)}
    else:
        want = {'f1_macro': metrics.f1_score(target, prediction, average='macro')}
    assert classes.f1(found) == pytest.approx(want)


def test_rows_that_do_not_count_do_not() -> None:
    weight = [1, 1, 0, 1, 0]
    some = results([0, 1, 1, 1, 0], [0, 1, 0, 0, 1], 'ab', weight)
    alone = results([0, 1, 1], [0, 1, 0], 'ab')
    for score in (classes.f1, classes.matthews):
        assert score(some) == score(alone)
    some = results([0.0, 1, 9, 2, 9], [1.0, 5, 0, 3, 0], weight=weight)
    assert numbers.spearman(some) == {'spearman': pytest.approx(0.5)}


def test_scores_of_numbers_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 40).astype(float), rng.standard_normal(40)  # with ties
    found = results(x + y, x)
    assert numbers.pearson(found)['pearson'] == pytest.approx(stats.pearsonr(x + y, x).statistic)
    found = results(x, np.floor(x / 2) + np.round(y))
    want = stats.spearmanr(*(found.rows[k] for k in ('prediction', 'target'))).statistic
    assert numbers.spearman(found)['spearman'] == pytest.approx(want)
    assert np.isnan(numbers.pearson(results([1.0, 1.0], [0.0, 1.0]))['pearson'])


# seqeval 1.2.2: precision_score, recall_score, f1_score of ([right], [predicted]).
SEQEVAL = [
    ('O O B-A I-A O', 'O O B-A I-A O', 1, 1, 1),
    ('B-A I-A O B-B', 'B-A O O B-B', 0.5, 0.5, 0.5),
    ('B-A B-A O', 'B-A I-A O', 0, 0, 0),
    ('O B-A I-A', 'O I-A I-A', 1, 1, 1),
    ('B-A I-A B-B I-B O', 'B-A I-B B-B I-B O', 1 / 3, 0.5, 0.4),
    ('O O B-A', 'B-A O B-A', 0.5, 1, 2 / 3),
]
NAMES = ('B-A', 'B-B', 'I-A', 'I-B', 'O')


def spread(tags: str) -> list[int]:
    """Each word as two tokens, with one of no class between words."""
    return [c for tag in tags.split() for c in (NAMES.index(tag), NAMES.index(tag), -1)]


@pytest.mark.parametrize(('right', 'predicted', 'precision', 'recall', 'f1'), SEQEVAL)
def test_entities_are_seqevals(right, predicted, precision, recall, f1) -> None:
    target, prediction = (np.array([spread(t)]) for t in (right, predicted))
    prediction[:, 1::3] = 0  # what second tokens of words are taken for does not matter
    segments = np.ones_like(target)
    found = entities.f1(results(prediction, target, NAMES, segments=segments))
    assert found == pytest.approx({'f1': f1, 'precision': precision, 'recall': recall})


def test_entities_do_not_cross_texts_and_other_classes_are_scored_as_classes() -> None:
    target = np.array([spread('B-A I-A')])
    segments = np.array([[1, 1, 1, 2, 2, 2]])
    found = list(entities.words(results(target, target, NAMES, segments=segments)))
    assert found == [([0], [0]), ([2], [2])]
    target, prediction = np.array([[0, 0, -1, 1, -1, 2]]), np.array([[0, 1, 0, 0, 0, 2]])
    found = entities.f1(results(prediction, target, 'xyz', segments=np.ones_like(target)))
    want = metrics.f1_score([0, 1, 2], [0, 0, 2], average='macro')
    assert found == pytest.approx({'f1_macro': want})


@pytest.mark.parametrize(
    ('answer', 'right', 'exact', 'f1'),
    [  # by hand, from the definitions of evaluate-v2.0.py
        ('the Denver Broncos!', 'Denver Broncos', True, 1),
        ('Denver', 'Denver Broncos', False, 2 / 3),
        ('a gold anniversary', 'gold', False, 2 / 3),
        ('', '', True, 1),
        ('x', '', False, 0),
        ('the the cat', 'the cat cat', False, 2 / 3),
        ('in 1,000 B.C.', 'In 1000 BC', True, 1),
    ],
)
def test_answers_are_compared_as_by_squads_script(answer, right, exact, f1) -> None:
    assert answers.exact_match(answer, right) == exact
    assert answers.overlap(answer, right) == pytest.approx(f1)


def windows(document, span, score, none, tokens, references=None, **rows) -> Results:
    """Of rows whose best spans have the sum of logits `score`; none of them has another row unread
    unless `of_document` says so.
    """
    counts = np.bincount(document)[document]
    rows = {'document': document, 'of_document': counts, 'span': span, 'score': score} | rows
    rows = {k: np.asarray(v) for k, v in rows.items()}
    rows |= {'none': np.array(none), 'normaliser': np.full(len(document), 9.0), 'tokens': tokens}
    found = results(np.zeros((len(document), 2), int), rows.pop('target', span), **rows)
    return dataclasses.replace(found, references=(references or {}).get) if references else found


def test_answers_are_the_text_of_spans() -> None:
    tokens = np.array([list(b'.who? the Ada L.')])
    found = windows([0], [[6, 12]], [2.0], [1.0], tokens, target=[[10, 12]])
    assert answers.span_exact_match(found) == {'exact_match': 1}
    found = windows([0], [[6, 12]], [1.0], [1.0], tokens, target=[[10, 12]])
    assert answers.span_f1(found) == {'f1': 0}


def test_the_best_span_over_the_windows_of_a_question_wins() -> None:
    """By hand, as write_predictions of run_squad.py has it: the largest score of a span over all
    windows, against the smallest score of no answer over all windows.
    """
    tokens = np.array([list(b'.ab'), list(b'.cd'), list(b'.ef'), list(b'.gh'), list(b'.ij')])
    document, span = [0, 1, 0, 2, 1], [[1, 1], [1, 2], [2, 2], [1, 2], [1, 1]]
    score, none = [3.0, 1.0, 4.0, 0.0, 2.0], [9.0, 5.0, 3.5, -1.0, 6.0]
    found = answers.per_question(windows(document, span, score, none, tokens))
    said = [answers.answer(found, i, 'prediction') for i in range(3)]
    assert said == ['f', '', 'gh']  # 4 > 3.5; 2 < 5; 0 > -1
    np.testing.assert_allclose(found.rows['confidence'], np.exp([4 - 9.0, 5 - 9.0, 0 - 9.0]))
    # A question of which a window was not read has no answer yet.
    found = answers.per_question(
        windows(document, span, score, none, tokens, of_document=[2, 3, 2, 1, 3])
    )
    assert found.rows['document'].tolist() == [0, 2]


def squad_script(answer: str, right: list[str]) -> tuple[float, float]:
    """EM and F1 of evaluate-v2.0.py, which where there is an answer are evaluate-v1.1.py's."""

    def normal(text: str) -> str:
        text = ''.join(c for c in text.lower() if c not in set(string.punctuation))
        return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())

    def f1(gold: str) -> float:
        one, two = normal(gold).split(), normal(answer).split()
        same = sum((collections.Counter(one) & collections.Counter(two)).values())
        if not one or not two:
            return int(one == two)
        if not same:
            return 0
        precision, recall = same / len(two), same / len(one)
        return 2 * precision * recall / (precision + recall)

    golds = [gold for gold in right if normal(gold)] or ['']
    return max(float(normal(gold) == normal(answer)) for gold in golds), max(map(f1, golds))


def test_several_right_answers_are_scored_as_by_squads_script() -> None:
    words = ['the', 'Ada', 'L.', 'Byron', 'of', 'an', 'engine', '!']
    rng, references, texts = np.random.default_rng(0), {}, []
    for i in range(60):
        texts.append(' '.join(rng.choice(words, rng.integers(0, 4))))
        size = rng.integers(1, 4)
        references[i] = tuple(' '.join(rng.choice(words, rng.integers(0, 4))) for _ in range(size))
    tokens = np.zeros((60, 40), int)
    for i, text in enumerate(texts):
        tokens[i, 1 : 1 + len(text)] = list(text.encode())
    span = [[1, max(len(text), 1)] for text in texts]
    none = [0.0 if text else 2.0 for text in texts]
    found = windows(list(range(60)), span, np.ones(60), none, tokens, references)
    want = np.mean([squad_script(text, list(references[i])) for i, text in enumerate(texts)], 0)
    assert answers.span_exact_match(found)['exact_match'] == pytest.approx(want[0])
    assert answers.span_f1(found)['f1'] == pytest.approx(want[1])
    assert 0 < want[0] < want[1] < 1
    # By hand: the second of two right answers, and half of one.
    one = {0: ('x', 'Ada Byron')}
    found = windows([0], [[1, 9]], [1.0], [0.0], np.array([list(b'.Ada Byron')]), one)
    assert answers.span_exact_match(found) == {'exact_match': 1}
    found = windows([0], [[1, 3]], [1.0], [0.0], np.array([list(b'.Ada Byron')]), one)
    assert answers.span_f1(found) == {'f1': pytest.approx(2 / 3)}


def test_scores_are_chosen_by_what_a_task_predicts() -> None:
    assert build_scores(('f1',), ('span', 'span'), 'x')[0].of is answers.span_f1
    with pytest.raises(
        UserError, match=r"unknown evals.v.scores 'mathews'.*Did you mean 'matthews'"
    ):
        build_scores(('mathews',), ('class',), 'evals.v.scores')
    with pytest.raises(UserError, match=r"'spearman' does not fit this task; .*: f1, matthews"):
        build_scores(('spearman',), ('class', 'class'), 'evals.v.scores')
    assert all(SCORES.values())


# (generated, right, rouge1, rouge2, rougeL), as rouge-score 0.1.2 has them, without its stemmer.
ROUGE = [
    ('the cat sat on the mat', 'the cat was on a mat', 0.666667, 0.2, 0.666667),
    ('Return the path, joined.', 'return the joined path', 1.0, 0.333333, 0.75),
    ('a b a b a', 'b a b', 0.75, 0.666667, 0.75),
    ('x1 Y-2', 'X1 y 2!', 1.0, 1.0, 1.0),
    ('naïve café', 'naive cafe', 0.0, 0.0, 0.0),
    ('', 'something', 0.0, 0.0, 0.0),
]


def generated(*pairs: tuple[str, str]) -> Results:
    found = tuple(Text(i, *pair) for i, pair in enumerate(pairs))
    return Results({}, {}, (), ByteTokenizer().decode, found)


@pytest.mark.parametrize(('said', 'right', 'rouge1', 'rouge2', 'rouge_l'), ROUGE)
def test_rouge_is_the_librarys(said, right, rouge1, rouge2, rouge_l) -> None:
    want = {'rouge1': rouge1, 'rouge2': rouge2, 'rougeL': rouge_l}
    assert texts.rouge(generated((said, right))) == pytest.approx(want, abs=1e-6)


def test_rouge_and_exact_matches_are_means_of_texts() -> None:
    found = generated(
        *((said, right) for said, right, *_ in ROUGE), (' Yes, it is\n', 'Yes, it is')
    )
    means = np.array([row[2:] for row in ROUGE] + [[1, 1, 1]]).mean(0)
    assert list(texts.rouge(found).values()) == pytest.approx(means.tolist(), abs=1e-6)
    assert texts.exact_match(found) == {'exact_match': pytest.approx(1 / 7)}


def test_bleu_is_of_all_texts_together() -> None:
    """Precisions of 9/11, 6/9, 3/7 and 1/5, and a brevity penalty of exp(1 − 12/11), by hand."""
    pytest.importorskip('sacrebleu')
    found = generated(
        ('the cat sat on the mat', 'the cat was on the mat'),
        ('return the joined path now', 'return the joined path of it'),
    )
    want = 100 * math.exp(1 - 12 / 11) * (9 / 11 * 6 / 9 * 3 / 7 * 1 / 5) ** 0.25
    assert texts.bleu(found)['bleu'] == pytest.approx(want)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"x: 'bleu' needs sacrebleu: pip install sacrebleu"):
        build_scores(('bleu',), ('tokens', 'responses'), 'x')
