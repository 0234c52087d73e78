"""Masked language modelling: by hand, in shares, and the same for the same (seed, place)."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import Batches
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.data.rows import NO_DOCUMENTS
from bigmodel.errors import UserError
from bigmodel.tasks.build import build_task
from bigmodel.tasks.masked_lm import MaskedLM
from tests.small import slots

BYTES = ByteTokenizer()
MASK = BYTES.vocab_size


class Given(Draws):
    """Draws that a test prescribes for one row."""

    def __init__(self, bits: list[int], unit: list[float], below: list[int]) -> None:
        self._bits, self._unit, self._below = bits, unit, below

    def bits(self, count: int) -> np.ndarray:
        return np.array([self._bits[:count]], np.uint64)

    def unit(self, count: int) -> np.ndarray:
        return np.array([self._unit[:count]])

    def below(self, high: int, count: int) -> np.ndarray:
        assert high == BYTES.vocab_size
        return np.array([self._below[:count]])


def draws(rows: int, seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed).integers(0, 2**63, rows).astype(np.uint64))


def lines(rows: int, length: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(1).integers(0, 256, (rows, length)).astype(np.int32)
    return {'tokens': tokens} | more


def by_hand() -> dict[str, np.ndarray]:
    """Five of eight tokens can be chosen and two are: the third and the fifth."""
    tokens = np.array([[256, 10, 20, 30, 40, 50, 257, 0]], np.int32)
    given = Given([0, 9, 3, 7, 1, 8, 0, 0], [0.5, 0.5, 0.79, 0.5, 0.85, 0.5, 0, 0], [77] * 8)
    rows = {'tokens': tokens, 'segments': np.array([[1] * 7 + [0]]), 'positions': slots(1, 8)}
    return MaskedLM(rate=0.4).prepare(rows, given, BYTES)


def test_a_row_by_hand() -> None:
    batch = by_hand()
    assert batch['tokens'].tolist() == [[256, 10, MASK, 30, 77, 50, 257, 0]]
    assert batch['targets'].tolist() == [[256, 10, 20, 30, 40, 50, 257, 0]]
    assert batch['weights'].tolist() == [[0, 0, 1, 0, 1, 0, 0, 0]]
    assert {k: v.dtype.name for k, v in batch.items() if k in ('tokens', 'targets', 'weights')} == {
        'tokens': 'int32',
        'targets': 'int32',
        'weights': 'float32',
    }
    assert batch['segments'].tolist() == [[1] * 7 + [0]]


def test_metrics_are_means_over_the_chosen_tokens() -> None:
    batch = {k: jnp.asarray(v) for k, v in by_hand().items()}
    logits = np.random.default_rng(0).standard_normal((1, 8, MASK + 1))
    logits[0, 4, 40] = 9.0  # the fifth is right
    seen = {}

    def model(tokens, positions, segments, key):
        seen.update(tokens=tokens, positions=positions, segments=segments)
        return jnp.asarray(logits, jnp.float32)

    metrics = build_task('masked_lm(label_smoothing=0.1, z_loss=0.01)')(model, batch, None)
    for name in seen:
        np.testing.assert_array_equal(seen[name], batch[name])
    log_z = np.log(np.exp(logits[0, [2, 4]]).sum(-1))
    nll = log_z - logits[0, [2, 4], [20, 40]]
    loss = 0.9 * nll + 0.1 * (log_z - logits[0, [2, 4]].mean(-1)) + 0.01 * log_z**2
    assert float(metrics['loss'].weight) == 2
    assert metrics['nll'].value() == pytest.approx(nll.mean(), rel=1e-5)
    assert metrics['loss'].value() == pytest.approx(loss.mean(), rel=1e-5)
    assert metrics['accuracy'].value() == 0.5


@pytest.mark.parametrize(('mask', 'random'), [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 0.25)])
def test_shares_are_those_asked_for(mask: float, random: float) -> None:
    """Counts of 20,000 chosen tokens, within 5 sigma."""
    rows = lines(2000, 64)
    batch = MaskedLM(mask=mask, random=random).prepare(rows, draws(2000), BYTES)
    chosen = batch['weights'] > 0
    seen, target = batch['tokens'][chosen], batch['targets'][chosen]
    assert len(seen) == 2000 * 10  # 0.15 · 64 = 9.6
    changed = random * (1 - 1 / BYTES.vocab_size)  # a random token may be the same one
    for found, share in (
        (seen == MASK, mask),
        ((seen != MASK) & (seen != target), changed),
        (seen == target, 1 - mask - changed),
    ):
        sigma = np.sqrt(share * (1 - share) * len(seen))
        assert abs(found.sum() - share * len(seen)) <= 5 * sigma


def test_every_place_and_every_token_is_drawn_alike() -> None:
    rows = lines(4000, 20)
    batch = MaskedLM(mask=0.0, random=0.999).prepare(rows, draws(4000), BYTES)
    places = (batch['weights'] > 0).sum(0)  # 3 of 20 in each row
    assert np.abs(places - 600).max() < 5 * np.sqrt(4000 * 0.15 * 0.85)
    tokens = batch['tokens'][batch['weights'] > 0]
    counts = np.bincount(tokens, minlength=BYTES.vocab_size)
    assert len(counts) == BYTES.vocab_size  # specials among them, as in BERT's code
    mean = len(tokens) / BYTES.vocab_size
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


def test_nothing_but_the_chosen_tokens_differs_or_counts() -> None:
    rows = lines(50, 40)
    before = rows['tokens'].copy()
    batch = MaskedLM(rate=0.3).prepare(rows, draws(50), BYTES)
    np.testing.assert_array_equal(rows['tokens'], before)
    np.testing.assert_array_equal(batch['targets'], before)
    assert set(np.unique(batch['weights'])) == {0, 1}
    rest = batch['weights'] == 0
    np.testing.assert_array_equal(batch['tokens'][rest], before[rest])


def test_a_fixed_number_of_each_rows_own_tokens_is_chosen() -> None:
    """0.15 of 40, 20, 7, 2 and 0 tokens, at least one where there is one; never padding."""
    lengths = np.array([40, 20, 7, 2, 0])
    segments = (slots(5, 40) < lengths[:, None]).astype(np.int32)
    for seed in range(20):
        batch = MaskedLM().prepare(lines(5, 40, segments=segments), draws(5, seed), BYTES)
        assert (batch['weights'] > 0).sum(1).tolist() == [6, 3, 1, 1, 0]
        assert not batch['weights'][segments == 0].any()


def test_marks_of_documents_are_never_chosen() -> None:
    rows = lines(100, 20)
    rows['tokens'][:, ::2] = 256
    rows['tokens'][:, 1::4] = 257
    batch = MaskedLM(rate=0.99).prepare(rows, draws(100), BYTES)
    assert (batch['weights'] > 0).sum(1).tolist() == [5] * 100
    assert batch['targets'][batch['weights'] > 0].max() < 256


def test_tokens_that_do_not_count_are_not_chosen() -> None:
    """Rows of a probe say which of their tokens are answers."""
    weights = np.zeros((8, 16), np.float32)
    weights[:, 12:] = 0.5
    batch = MaskedLM(rate=0.5).prepare(lines(8, 16, weights=weights), draws(8), BYTES)
    assert (batch['weights'] > 0).sum(1).tolist() == [2] * 8
    assert set(np.unique(batch['weights'])) == {0, 0.5} and not batch['weights'][:, :12].any()


class Rows:
    """Row i has the tokens i, i + 1, …"""

    length, num_truncated, labelled, padding_share = 20, 0, False, 0.0
    documents = NO_DOCUMENTS

    def __len__(self) -> int:
        return 48

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {'tokens': (indices[:, None] + np.arange(20)).astype(np.int32)}


def batches(seed: int = 0, shuffle: bool = True, host: int = 0, hosts: int = 1) -> Batches:
    prepare = lambda rows, draws: MaskedLM().prepare(rows, draws, BYTES)  # noqa: E731
    rows = np.arange(8).reshape(hosts, -1)[host]
    return Batches(Rows(), 8, seed, shuffle, rows, prepare)


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('hosts', [2, 8])
def test_masks_do_not_depend_on_the_number_of_hosts_or_on_what_came_before(
    hosts: int, shuffle: bool
) -> None:
    whole = [batches(shuffle=shuffle)(step) for step in range(6)]
    many = [batches(shuffle=shuffle, host=h, hosts=hosts) for h in range(hosts)]
    for step in (5, 0, 3):
        parts = [b(step) for b in many]
        for key, values in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), values)


def masks_by_row(made: Batches, steps: range) -> dict[int, bytes]:
    found = {}
    for step in steps:
        batch = made(step)
        for targets, weights in zip(batch['targets'], batch['weights'], strict=True):
            found[int(targets[0])] = weights.tobytes()
    return found


def test_other_epochs_and_seeds_have_other_masks_and_evaluations_the_same() -> None:
    first, second = (masks_by_row(batches(), range(6 * e, 6 * e + 6)) for e in (0, 1))
    other = masks_by_row(batches(seed=1), range(6))
    for changed in (second, other):
        assert changed.keys() == first.keys() == set(range(48))
        # 3 of 20 tokens: two draws are alike once in 1,140.
        assert sum(changed[row] == first[row] for row in first) <= 2
    held_out = batches(shuffle=False)
    assert masks_by_row(held_out, range(6)) == masks_by_row(held_out, range(6))
    of_another_run = batches(seed=1, shuffle=False)  # so that runs are compared on the same masks
    assert masks_by_row(held_out, range(6)) == masks_by_row(of_another_run, range(6))


def test_whole_words_by_hand() -> None:
    """Of 11 tokens 4 are wanted: 'fox' (0) fits, 'jump' (1) and 'it' (2) do not, '.' (3) does."""
    text = [256, *b'fox jump.it', 257]
    given = [9, 0, 9, 9, 8, 1, 9, 9, 9, 3, 2, 9, 0]
    draw = Given(given, [0.5, 0.1, 0.85, 0.95, *[0.5] * 9], [77] * 13)
    rows = {'tokens': np.array([text], np.int32)}
    batch = MaskedLM(rate=0.36, whole_words=True).prepare(rows, draw, BYTES)
    assert batch['weights'].tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]]
    # 80/10/10 is of each token: hidden, replaced, kept, hidden.
    x, dot = ord('x'), MASK
    assert batch['tokens'].tolist() == [[256, MASK, 77, x, *b' jump', dot, *b'it', 257]]


def test_whole_words_are_chosen_together_or_not_at_all() -> None:
    text = b'the quick brown fox_jumps (over) 12 lazy dogs; '
    rows = {'tokens': np.tile(np.frombuffer(text, np.uint8), (500, 2)).astype(np.int32)}
    batch = MaskedLM(rate=0.3, whole_words=True).prepare(rows, draws(500), BYTES)
    chosen = batch['weights'] > 0
    words = [m.span() for m in re.finditer(rb'[a-z0-9]+|[^a-z0-9]', text * 2)]
    for begin, end in words:
        assert (chosen[:, begin:end].all(1) == chosen[:, begin:end].any(1)).all()
        assert 50 < chosen[:, begin].sum() < 300
    wanted = round(0.3 * 2 * len(text))
    assert chosen.sum(1).max() == wanted and chosen.sum(1).mean() > wanted - 1


def test_words_of_text_without_spaces_are_its_characters() -> None:
    """Chinese as bytes: each character is chosen whole, and as many as are wanted."""
    text = '学而时习之，不亦说乎？有朋自远方来'
    rows = {'tokens': np.tile(np.frombuffer(text.encode(), np.uint8), (300, 2)).astype(np.int32)}
    chosen = MaskedLM(rate=0.3, whole_words=True).prepare(rows, draws(300), BYTES)['weights'] > 0
    characters = chosen.reshape(300, -1, 3)
    assert (characters.all(-1) == characters.any(-1)).all()
    wanted = round(0.3 * 6 * len(text)) // 3
    assert (characters.all(-1).sum(1) == wanted).all()
    assert (characters.any(-1).sum(0) > 50).all()


def test_words_end_with_their_document_and_too_long_ones_stay() -> None:
    tokens = np.array([list(b'abcdefgh'), list(b'abcdefgh')], np.int32)
    segments = np.array([[1] * 6 + [2] * 2, [1] * 8])
    task = MaskedLM(rate=0.3, whole_words=True)
    batch = task.prepare({'tokens': tokens, 'segments': segments}, draws(2), BYTES)
    assert batch['weights'].tolist() == [[0] * 6 + [1] * 2, [0] * 8]


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('masked_lm(rate=0)', 'rate=...*must be positive, got 0'),
        ('masked_lm(rate=1.0)', r'must be in \[0, 1\)'),
        ('masked_lm(mask=1.2)', r'must be in \[0, 1\], got 1.2'),
        ('masked_lm(mask=0.8, random=0.3)', 'mask=0.8 and random=0.3 must be at most 1 together'),
    ],
)
def test_impossible_shares_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(spec)


def test_the_mask_is_an_id_of_the_tasks_own() -> None:
    assert build_task('masked_lm').extra_ids == 1
    assert by_hand()['tokens'].max() == MASK == BYTES.vocab_size
