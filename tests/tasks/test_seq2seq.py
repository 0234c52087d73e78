"""Prompts and responses as source and target: rooms, truncation, the start, and mistakes."""

import json
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from bigmodel.data.formats import build_format
from bigmodel.data.pipeline import open_data
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.errors import UserError
from bigmodel.inference.generate import beginning
from bigmodel.tasks.build import build_task
from bigmodel.training.outline import resolve
from bigmodel.training.setup import build
from experiments import defaults

PAIRS = [('p' * i, 'r' * (j + 1)) for i, j in ((3, 2), (0, 0), (7, 3), (6, 5), (9, 1))]
# In bytes: the start and the end of the prompt, the end of the response.
START, END = 256, 257


def config_of(folder: Any, task: str, **data: Any) -> ConfigDict:
    rows = [{'prompt': p, 'response': r} for p, r in 2 * PAIRS]
    for split in ('train', 'validation'):
        (folder / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    c = defaults.get_config()
    c.task = task
    c.data.update(source='jsonl', path=f'{folder}/{{split}}.jsonl', cache_dir=str(folder / 'cache'))
    c.data.update({'format': 'prompt', 'packing': 'sides', 'seq_len': 11, 'batch_size': 8} | data)
    c.data.workers = 1
    c.model.update(size='t5-small', depth=1, encoder_depth=1, width=16, num_heads=2)
    return resolve(c)


def made(config: ConfigDict) -> tuple[dict[str, np.ndarray], Any]:
    task = build_task(config.task)
    length = config.data.seq_len + task.extra_tokens
    data = open_data(
        config.data,
        'train',
        length=length,
        overlap=task.extra_tokens,
        shuffle=False,
        prepare=task.prepare,
    )
    batch = data.batches(0)
    return {k: x[: len(PAIRS)] for k, x in batch.items()}, data


@pytest.mark.parametrize(('room', 'spelt', 'cut'), [(11, 7, 0), (8, 4, 6), (2, 1, 10)])
def test_both_sides_have_their_own_room_and_what_is_cut_is_counted(tmp_path, room, spelt, cut):
    packing = 'sides(truncate=True)' if cut else 'sides'
    task = f'seq2seq(target_length={spelt})'
    batch, data = made(config_of(tmp_path, task, packing=packing, seq_len=room))
    assert build_task(task).lengths(room) == (spelt, room)
    for i, (prompt, response) in enumerate(PAIRS):
        source = [START, *prompt.encode(), END][:room]
        target = [*response.encode(), END][:spelt]
        assert batch['source'][i, batch['source_segments'][i] > 0].tolist() == source
        assert batch['tokens'][i, batch['segments'][i] > 0].tolist() == [0, *target]
    assert batch['source'].shape[1] == room and batch['tokens'].shape[1] == spelt + 1
    assert data.batches.examples.num_truncated == cut
    assert (f', {cut} documents cut' in data.about) == bool(cut)


def test_longer_ones_are_refused_unless_the_config_says_so(tmp_path):
    message = r'6 of 10 examples of the split .train. have more than 8 tokens in the prompt \(the '
    with pytest.raises(UserError, match=message + r'longest has 11\) or 4 in the response \(7\)'):
        made(config_of(tmp_path, 'seq2seq(target_length=4)', seq_len=8))


def test_a_row_of_the_packing_is_one_document(tmp_path):
    config = config_of(tmp_path, 'seq2seq(target_length=7)')
    data = open_data(config.data, 'train', length=18, overlap=7, shuffle=False)
    batch = data.batches(0)
    assert (batch['segments'].max(1)[:5] == 1).all()
    assert batch['tokens'][0, :9].tolist() == [START, *b'ppp', END, *b'rrr', END]
    assert batch['marks'][0, :10].tolist() == [0] * 5 + [1] * 4 + [0]
    assert batch['positions'][0, :10].tolist() == [*range(9), 0]


def test_generation_begins_as_training_does(tmp_path):
    task = build_task('seq2seq(target_length=7)')
    batch, _ = made(config_of(tmp_path, 'seq2seq(target_length=7)'))
    begin = beginning(task, ByteTokenizer(), 'ppp', build_format('prompt'))
    assert list(begin.source) == batch['source'][0, batch['source_segments'][0] > 0].tolist()
    assert (begin.tokens, begin.end) == ([batch['tokens'][0, 0]], END)
    with pytest.raises(UserError, match='the prompt is empty'):
        beginning(task, ByteTokenizer(), '', build_format('prompt'))


@pytest.mark.parametrize(
    ('task', 'data', 'message'),
    [
        (
            'seq2seq',
            {'packing': 'pad'},
            "does not read rows of data.packing='pad'; set it to sides",
        ),
        ('instruction', {}, "does not read rows of data.packing='sides'; set it to another"),
        ('seq2seq', {'format': 'text("prompt")'}, 'needs data.format=prompt or chat'),
        ('seq2seq(target_length=0)', {}, 'must be positive, got 0'),
        ('seq2seq(target_length=20)', {}, 'makes rows of 20 tokens, but model.max_length=11'),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(tmp_path, task, data, message):
    with pytest.raises(UserError, match=message):
        build(config_of(tmp_path, task, **data))


def test_a_conversation_of_several_turns_is_refused(tmp_path):
    turns = [{'role': r, 'content': 'x'} for r in ('user', 'assistant') * 2]
    config = config_of(tmp_path, 'seq2seq', format='chat(template="plain")')
    (tmp_path / 'train.jsonl').write_text(json.dumps({'messages': turns}) + '\n')
    with pytest.raises(UserError, match='some have several turns'):
        made(config)
