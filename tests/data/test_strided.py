"""Windows of long contexts: an example by hand, and the loop of BERT's script for SQuAD."""

import json

import numpy as np
import pytest

from bigmodel.data.pipeline import open_data
from bigmodel.data.store import open_store
from bigmodel.data.strided import contexts_of
from bigmodel.errors import UserError

START, END, PAD = 256, 257, 0


def squad(question: str, context: str, *answers: str) -> dict:
    starts = [context.index(answer) for answer in answers]
    return {
        'question': question,
        'context': context,
        'answers': {'text': list(answers), 'answer_start': starts},
    }


@pytest.fixture
def config(tmp_path, make_config):
    def function(*rows, **keys):
        path = tmp_path / 'train.jsonl'
        path.write_text('\n'.join(map(json.dumps, rows)))
        keys = {'format': 'span(unanswerable=True)', 'packing': 'strided(stride=3)'} | keys
        return make_config(source='jsonl', path=f'{tmp_path}/{{split}}.jsonl', **keys)

    return function


def test_windows_are_as_by_hand(config):
    """Twelve tokens: six of them before a context of ten, so rows have five at most, from 0, 3 and
    6; the answer 'fg' is whole in the second row alone.
    """
    rows = squad('who?', 'abcdefghij', 'fg'), squad('who?', 'short', 'rt'), squad('who?', 'no ans')
    data = open_data(config(*rows, batch_size=6), 'train', length=12, shuffle=False)
    batch = data.batches(0)
    text = (batch['tokens'] < 256) & (batch['segments'] > 0)
    found = [bytes(t.astype(np.uint8)).decode() for t in map(np.extract, text, batch['tokens'])]
    assert found == ['who?' + x for x in ('abcde', 'defgh', 'ghij', 'short', 'no an', 'ans')]
    before = [0] * 6
    assert batch['marks'].tolist() == [
        [*before, 2, 2, 2, 2, 2, 2],
        [*before, 2, 2, 1, 1, 2, 2],
        [*before, 2, 2, 2, 2, 2, 0],
        [*before, 2, 2, 2, 1, 1, 1],  # what ends an answer at the end is marked as it is
        [*before, 2, 2, 2, 2, 2, 2],
        [*before, 2, 2, 2, 2, 0, 0],
    ]
    assert batch['elsewhere'].tolist() == [1, 0, 1, 0, 0, 0]
    assert batch['tokens'][2].tolist() == [START, *b'who?', END, *b'ghij', END, PAD]
    assert batch['segments'][2].tolist() == [1] * 11 + [0]
    assert batch['positions'][2].tolist() == [*range(11), 0]
    assert data.batches.examples.documents.tolist() == [0, 0, 0, 1, 2, 2]


def run_squads_windows(size: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The loop over `_DocSpan` of run_squad.py (Devlin et al. 2018)."""
    spans, start = [], 0
    while start < max(size, 1):
        length = min(size - start, room)
        spans.append((start, length))
        if start + length == size:
            break
        start += min(length, stride)
    return spans


@pytest.mark.parametrize(('length', 'stride'), [(20, 1), (20, 5), (20, 99), (16, 4), (400, 128)])
def test_windows_are_those_of_run_squad(config, length, stride):
    rng = np.random.default_rng(length)
    rows = []
    for _ in range(25):
        words = ''.join(rng.choice(list('abcdef '), int(rng.integers(3, 90)))) + 'x'
        begin = int(rng.integers(0, len(words) - 1))
        answer = words[begin : begin + int(rng.integers(1, 5))]
        rows.append(squad('q' * int(rng.integers(1, 8)), words))
        if answer.strip():
            rows[-1]['answers'] = {'text': [answer], 'answer_start': [begin]}
    keys = {'packing': f'strided(stride={stride})', 'batch_size': 1}
    data = open_data(config(*rows, **keys), 'train', length=length, shuffle=False)
    want = []
    for row in rows:
        first = 2 + len(row['question'])
        for start, size in run_squads_windows(len(row['context']), length - first - 1, stride):
            window = row['context'][start : start + size]
            begin = (row['answers']['answer_start'] or [0])[0] - start
            stop = begin + len((row['answers']['text'] or [''])[0])
            whole = stop > begin and begin >= 0 and stop <= size
            want.append((row['question'] + window, window[begin:stop] if whole else ''))
    found = []
    for i in range(data.batches.num_batches):
        batch = data.batches(i)
        text = (batch['tokens'][0] < 256) & (batch['segments'][0] > 0)
        answer = text & (batch['marks'][0] == 1)
        ids = batch['tokens'][0]
        found.append(tuple(bytes(ids[x].astype(np.uint8)).decode() for x in (text, answer)))
    assert found == want


def test_what_has_no_windows_is_refused(config):
    row = squad('who?', 'abc', 'b')
    with pytest.raises(UserError, match=r'1 of 1 questions .* leave no room .* in 7 tokens'):
        open_data(config(row), 'train', length=7)
    assert open_data(config(row, batch_size=1), 'train', length=8).batches.num_rows == 3
    plain = config(row, format='text("context")')
    with pytest.raises(UserError, match=r"'strided' needs contexts: set data.format=span"):
        open_data(plain, 'train', length=16)


def test_contexts_are_where_the_marks_are(config, monkeypatch):
    rows = [squad('who?', 'by Ada', 'Ada'), squad('q', 'x'), squad('why', 'so', 'so')]
    store = open_store(config(*rows), 'train')
    want = [[6, 12, 9, 12], [16, 17], [23, 25, 23, 25]]
    for chunk in (1 << 24, 8):  # all at once, and a document at a time
        monkeypatch.setattr('bigmodel.data.strided.CHUNK', chunk)
        found = np.stack(contexts_of(store), 1)
        assert [found[0].tolist(), found[1, :2].tolist(), found[2].tolist()] == want
        assert found[1, 2] == found[1, 3]
