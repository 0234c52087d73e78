"""Formats: documents by hand, marks and groups through the store to the rows, and mistakes."""

import json
from typing import Any

import numpy as np
import pytest

from bigmodel.data.formats import FORMATS, build_format
from bigmodel.data.pipeline import open_data
from bigmodel.data.sources import build_documents
from bigmodel.data.store import open_store
from bigmodel.data.tokenizers import build_tokenizer, train_bpe
from bigmodel.errors import UserError

CHAT = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yo'}]
SQUAD = {
    'question': 'who?',
    'context': 'by Ada L.',
    'answers': {'text': ['Ada'], 'answer_start': [3]},
}
# Spec, an example, its documents' pieces by part, with their marks, and the label.
EXAMPLES: list[tuple[str, dict[str, Any], list, float]] = [
    ('text', {'text': 'abc'}, [[[('abc', 0)]]], 0),
    ('text(("a", "b"), label="y")', {'a': 'x', 'b': 'z', 'y': 1}, [[[('x\nz', 0)]]], 1),
    ('pair("p", "h", label="y")', {'p': 'a', 'h': 'b', 'y': 0}, [[[('a', 0)], [('b', 0)]]], 0),
    ('score("a", "b", score="s")', {'a': 'x', 'b': 'y', 's': 2.5}, [[[('x', 0)], [('y', 0)]]], 2.5),
    (
        'tags',
        {'tokens': ['Ada', 'ran'], 'tags': ['PER', 'O']},
        [[[('Ada', 2), (' ', 0), ('ran', 1)]]],
        0,
    ),
    ('span', SQUAD, [[[('who?', 0)], [('by ', 2), ('Ada', 1), (' L.', 2)]]], 0),
    (
        'choices("o", group=2)',
        {'question': 'q', 'o': ['a', 'b'], 'label': 1},
        [[[('q', 0)], [('a', 0)]], [[('q', 0)], [('b', 0)]]],
        1,
    ),
    ('prompt', {'prompt': 'p', 'response': 'r'}, [[[('p', 0)], [('r', 1)]]], 0),
    (
        'chat',
        {'messages': CHAT},
        [
            [
                [
                    ('<|im_start|>user\n', 0),
                    ('hi', 0),
                    ('<|im_end|>\n', 0),
                    ('<|im_start|>assistant\n', 0),
                    ('yo', 1),
                    ('<|im_end|>\n', 1),
                ]
            ]
        ],
        0,
    ),
    (
        'preference',
        {'prompt': 'p', 'chosen': 'c', 'rejected': 'r'},
        [[[('p', 0)], [('c', 1)]], [[('p', 0)], [('r', 1)]]],
        0,
    ),
]


@pytest.fixture
def write(tmp_path, make_config):
    """A config of rows as JSONL, the same for all splits."""

    def function(*rows, **keys):
        for split in ('train', 'validation'):
            (tmp_path / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, rows)))
        return make_config(source='jsonl', path=f'{tmp_path}/{{split}}.jsonl', **keys)

    return function


def test_every_format_has_an_example():
    assert {spec.split('(')[0] for spec, *_ in EXAMPLES} == set(FORMATS)


@pytest.mark.parametrize(('spec', 'row', 'want', 'label'), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_documents_are_as_written_by_hand(write, spec, row, want, label):
    documents = build_documents(write(row, format=spec), 'train')[0]
    found = [[[(p.text, p.mark) for p in part] for part in d.parts] for d in documents]
    assert found == want
    assert {d.label for d in documents} == {label}
    assert len(documents) == FORMATS[spec.split('(')[0]].group or 'group=' in spec


def test_marks_go_with_their_tokens_through_every_packing(write):
    rows = [{'prompt': 'ab' * i, 'response': 'x' * (i + 1)} for i in range(5)]
    for packing in ('stream', 'first_fit', 'windows', 'pad'):
        config = write(*rows, format='prompt', packing=packing, batch_size=1)
        data = open_data(config, 'train', length=24, shuffle=False)
        seen = 0
        for i in range(data.batches.num_batches):
            batch = data.batches(i)
            tokens, marks = batch['tokens'], batch['marks']
            assert marks.shape == tokens.shape
            responses = tokens == ord('x')
            assert (marks[responses] == 1).all()
            # What ends a response is learned with it; nothing else is.
            ends = (tokens == 257) & np.roll(responses, 1, 1)
            assert ((marks == 1) == (responses | ends)).all()
            seen += int(responses.sum())
        assert seen == 15


def test_parts_end_with_the_end_token(write):
    config = write({'p': 'a', 'h': 'b', 'y': 0}, format='pair("p", "h", label="y")')
    store = open_store(config, 'train')
    assert store.gather(np.arange(store.num_tokens)).tolist() == [256, 97, 257, 98, 257]


def test_documents_of_an_example_stay_together(write):
    rows = [{'prompt': 'p', 'chosen': 'c' * i, 'rejected': 'r'} for i in range(1, 9)]
    config = write(*rows, format='preference', packing='pad', batch_size=4)
    data = open_data(config, 'train', length=16)
    batch = data.batches(0)
    assert batch['tokens'].shape == batch['marks'].shape == (4, 2, 16)
    assert (batch['tokens'][:, 0, 3] == ord('c')).all()
    assert (batch['tokens'][:, 1, 3] == ord('r')).all()
    with pytest.raises(UserError, match=r"would tear apart the 2 documents .* use 'pad'"):
        open_data(write(*rows, format='preference'), 'train', length=16)


def test_options_that_a_cut_makes_the_same_are_counted(write):
    """The first four tokens are the start, the question, its end, and one of the option."""
    options = [['ax', 'bx'], ['ax', 'ay'], ['ax', 'a'], ['a', 'b'], ['bx', 'b']]
    rows = [{'question': 'q', 'o': pair, 'label': 0} for pair in options]
    given = {'format': 'choices("o", group=2)', 'packing': 'pad(truncate=True)', 'batch_size': 1}
    data = open_data(write(*rows, **given), 'train', length=4)
    # The end of the option is cut off everywhere, and the second, third and fifth are told apart by
    # what is cut off.
    assert '10 documents cut, 3 of 5 examples with two the same' in data.about
    assert 'the same' not in open_data(write(*rows, **given), 'train', length=5).about
    with pytest.raises(UserError, match=r'data.seq_len: in each example .* same first 3 tokens'):
        open_data(write(*rows, **given), 'train', length=3)


def test_classes_of_a_pair_have_the_numbers_of_their_names(write):
    rows = [{'p': 'a', 'h': 'b', 'y': y} for y in ('p', 'n')]
    config = write(*rows, format=NAMED, packing='pad', batch_size=2)
    data = open_data(config, 'train', length=8, shuffle=False, labelled=True)
    assert data.label_names == ('n', 'p') and data.batches(0)['label'].tolist() == [1, 0]
    more = write(*rows, format=NAMED.replace('"n", ', '"m", "n", '), packing='pad', batch_size=2)
    data = open_data(more, 'train', length=8, shuffle=False, labelled=True)
    assert data.label_names == ('m', 'n', 'p') and data.batches(0)['label'].tolist() == [2, 1]


def test_labels_of_groups_and_numbers(write):
    rows = [{'question': 'q', 'o': ['a', 'b', 'c'], 'label': i % 3} for i in range(6)]
    config = write(*rows, format='choices("o", group=3)', packing='pad', batch_size=6)
    data = open_data(config, 'train', length=8, shuffle=False, labelled=True)
    assert data.batches(0)['label'].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.label_names == ('0', '1', '2')
    rows = [{'text': 't', 'score': i / 2} for i in range(4)]
    data = open_data(
        write(*rows, format='score', packing='pad'), 'train', length=8, shuffle=False, labelled=True
    )
    assert data.batches(0)['label'].dtype == np.float32
    assert data.batches(0)['label'].tolist() == [0, 0.5, 1, 1.5]


def test_another_format_is_another_store(write):
    row = {'text': 'a', 'other': 'b'}
    first = open_store(write(row), 'train')
    second = open_store(write(row, format='text("other")'), 'train')
    assert first.fingerprint != second.fingerprint
    assert second.gather(np.arange(3)).tolist() == [256, 98, 257]


def test_special_tokens_of_a_template_are_ids_and_those_of_users_are_text(write, tmp_path):
    config = write({'messages': [{'role': 'user', 'content': '<|im_end|>'}, CHAT[1]]})
    config.format = 'chat'
    trained = train_bpe(build_documents(config, 'train'), 300, str(tmp_path / 'bpe.json'))
    saved = json.loads(trained.text)
    ids = iter(range(trained.vocab_size, trained.vocab_size + 2))
    special = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
    for name in ('<|im_start|>', '<|im_end|>'):
        saved['added_tokens'].append({'id': next(ids), 'content': name, 'special': True, **special})
    (tmp_path / 'bpe.json').write_text(json.dumps(saved))
    config.tokenizer = f'hf("{tmp_path / "bpe.json"}")'
    tokenizer = build_tokenizer(config.tokenizer)
    start, end = trained.vocab_size, trained.vocab_size + 1
    store = open_store(config, 'train')
    tokens = store.gather(np.arange(store.num_tokens)).tolist()
    assert (tokens.count(start), tokens.count(end)) == (2, 2)  # the user's own is not among them
    assert tokenizer.encode('<|im_end|>', special=True).tolist() == [end]


BAD = [
    ('prompt', {'promt': 'p', 'response': 'r'}, "no field 'prompt'. Did you mean 'promt'"),
    ('chat', {'messages': CHAT[:1]}, 'no turn of the assistant'),
    ('chat(template="chatlm")', {}, "unknown template .* Did you mean 'chatml'"),
    ('tags', {'tokens': ['a', 'b'], 'tags': ['X']}, '2 tokens but 1 tags'),
    (
        'span',
        SQUAD | {'answers': {'text': ['Ada'], 'answer_start': []}},
        ':1: 1 answers.text but 0 answers.answer_start',
    ),
    (
        'chat',
        {'messages': [*CHAT, {'role': 'system', 'content': 's'}]},
        ':1: messages has a system turn that is not the first',
    ),
    ('span', SQUAD | {'answers': {'text': ['Bob'], 'answer_start': [3]}}, "'Bob' is not at 3"),
    ('span', SQUAD | {'answers': {'text': ['Ada']}}, "no field 'answers.answer_start'"),
    ('choices("o")', {'question': 'q', 'o': ['a'], 'label': 0}, '1 o instead of 4: set group='),
    ('txet', {}, "unknown data.format 'txet'. Did you mean 'text'"),
]


PAIR, CHOICES = 'pair("p", "h", label="y")', 'choices("o", group=2)'
NAMED = 'pair("p", "h", label="y", classes=("n", "p"))'
ANSWERED = {'question': 'q', 'o': ['a', 'b'], 'label': 0}
A_CLASS = 'the name of a class or its number \\(0 to 65535\\)'
# Format, example, field, what it holds, what it must be.
MALFORMED = [
    ('text', {'text': 7}, 'text', '7', 'a string'),
    ('text', {'text': None}, 'text', 'None', 'a string'),
    ('text(label="y")', {'text': 'a', 'y': None}, 'y', 'None', A_CLASS),
    ('text(label="y")', {'text': 'a', 'y': ''}, 'y', "''", A_CLASS),
    ('text(label="y")', {'text': 'a', 'y': 1.7}, 'y', '1.7', A_CLASS),
    ('text(label="y")', {'text': 'a', 'y': True}, 'y', 'True', A_CLASS),
    ('text(label="y")', {'text': 'a', 'y': [0.5]}, r'y\[0\]', '0.5', A_CLASS),
    ('text(label="y")', {'text': 'a', 'y': [0]}, 'y', r'\[0\]', 'a class, which are 0 to 0 or 0'),
    (
        'text(label="y", classes=("n", "p"))',
        {'text': 'a', 'y': 1.7},
        'y',
        '1.7',
        'a class, .* n, p',
    ),
    ('text(label="y", classes=("n", "p"))', {'text': 'a', 'y': 2}, 'y', '2', 'a class, .* 0 to 1'),
    ('text(label="y", classes=("n", "p"))', {'text': 'a', 'y': 'x'}, 'y', "'x'", 'a class'),
    ('text(label="y", classes=("n", "p"))', {'text': 'a', 'y': None}, 'y', 'None', 'a class'),
    (PAIR, {'p': 1, 'h': 'b', 'y': 0}, 'p', '1', 'a string'),
    (PAIR, {'p': 'a', 'h': ['b'], 'y': 0}, 'h', r"\['b'\]", 'a string'),
    (PAIR, {'p': 'a', 'h': 'b', 'y': None}, 'y', 'None', A_CLASS),
    (NAMED, {'p': 'a', 'h': 'b', 'y': 2}, 'y', '2', 'a class, .* 0 to 1 or n, p'),
    (NAMED, {'p': 'a', 'h': 'b', 'y': 'x'}, 'y', "'x'", 'a class'),
    ('score', {'text': 'a', 'score': 'b'}, 'score', "'b'", 'a finite number'),
    ('score', {'text': 'a', 'score': float('nan')}, 'score', 'nan', 'a finite number'),
    ('score', {'text': 'a', 'score': True}, 'score', 'True', 'a finite number'),
    ('tags', {'tokens': 'a b', 'tags': [0, 0]}, 'tokens', "'a b'", 'a list'),
    ('tags', {'tokens': ['a', 3], 'tags': [0, None]}, r'tokens\[1\]', '3', 'a string'),
    ('tags', {'tokens': ['a', ''], 'tags': [0, 0]}, r'tokens\[1\]', "''", 'a string that is not'),
    ('tags', {'tokens': ['a', 'b'], 'tags': [0, 1.5]}, r'tags\[1\]', '1.5', A_CLASS),
    ('tags', {'tokens': ['a', 'b'], 'tags': [0, ' ']}, r'tags\[1\]', "' '", A_CLASS),
    (CHOICES, ANSWERED | {'label': 1.7}, 'label', '1.7', 'a class, which are 0 to 1'),
    (CHOICES, ANSWERED | {'label': 2}, 'label', '2', 'a class, which are 0 to 1'),
    (CHOICES, ANSWERED | {'label': None}, 'label', 'None', 'a class, which are 0 to 1'),
    (CHOICES, ANSWERED | {'o': ['a', 5]}, r'o\[1\]', '5', 'a string'),
    (CHOICES, ANSWERED | {'o': ['a', '']}, r'o\[1\]', "''", 'a string that is not empty'),
    (CHOICES, ANSWERED | {'question': 5}, 'question', '5', 'a string'),
    ('prompt', {'prompt': 3, 'response': 'r'}, 'prompt', '3', 'a string'),
    ('prompt', {'prompt': 'p', 'response': 4}, 'response', '4', 'a string that is not empty'),
    ('prompt', {'prompt': 'p', 'response': ' '}, 'response', "' '", 'a string that is not empty'),
    (
        'preference',
        {'prompt': 'p', 'chosen': 'c', 'rejected': ''},
        'rejected',
        "''",
        'a string that is not empty',
    ),
    (
        'span',
        SQUAD | {'answers': {'text': [], 'answer_start': []}},
        'answers.text',
        r'\[\]',
        r'a list with an answer; .* set unanswerable=True',
    ),
    (
        'span',
        SQUAD | {'answers': {'text': [''], 'answer_start': [3]}},
        r'answers.text\[0\]',
        "''",
        'a string that is not empty',
    ),
    (
        'span',
        SQUAD | {'answers': {'text': ['Ada'], 'answer_start': [-6]}},
        r'answers.answer_start\[0\]',
        '-6',
        'a whole number, at least 0',
    ),
    (
        'span',
        SQUAD | {'answers': {'text': ['Ada'], 'answer_start': [3.0]}},
        r'answers.answer_start\[0\]',
        '3.0',
        'a whole number',
    ),
    ('chat', {'messages': 'hi'}, 'messages', "'hi'", 'a list'),
    ('chat', {'messages': ['hi']}, r'messages\[0\]', "'hi'", "an object with the field 'role'"),
    (
        'chat',
        {'messages': [{'from': 'user', 'content': 'x'}]},
        r'messages\[0\]',
        '{.*}',
        "an object with the field 'role'",
    ),
    (
        'chat',
        {'messages': [CHAT[0] | {'content': ['hi']}, CHAT[1]]},
        r'messages\[0\].content',
        r"\['hi'\]",
        'a string',
    ),
    (
        'chat',
        {'messages': [CHAT[0], CHAT[1] | {'content': None}]},
        r'messages\[1\].content',
        'None',
        'a string',
    ),
    (
        'chat',
        {'messages': [CHAT[0], CHAT[1] | {'content': '\n'}]},
        r'messages\[1\].content',
        r"'\\n'",
        'a string that is not empty',
    ),
    (
        'chat',
        {'messages': [CHAT[0] | {'role': 'human'}, CHAT[1]]},
        r'messages\[0\].role',
        "'human'",
        'one of system, user, assistant',
    ),
]


@pytest.mark.parametrize(('spec', 'row', 'field', 'held', 'wanted'), MALFORMED)
def test_a_malformed_field_says_file_line_name_value_and_what_it_must_be(
    write, spec, row, field, held, wanted
):
    message = rf"train\.jsonl:1: field '{field}' is {held}, but must be {wanted}"
    with pytest.raises(UserError, match=message):
        open_store(write(row, format=spec), 'train')


def test_what_an_example_may_leave_empty(write):
    unanswered = SQUAD | {'answers': {'text': [], 'answer_start': []}}
    legal = [
        ('span(unanswerable=True)', unanswered),
        ('prompt', {'prompt': '', 'response': 'r'}),
        ('tags', {'tokens': ['a', ' '], 'tags': ['X', None]}),
        (PAIR, {'p': '', 'h': 'b', 'y': 0}),
        (CHOICES, ANSWERED | {'label': '1'}),
    ]
    for spec, row in legal:
        assert open_store(write(row, format=spec), 'train').num_tokens


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        ('"a", "b", "a"', "'a' is there twice"),
        ('0, 1', '0 is no name'),
        ('"", "a"', "'' is no name"),
    ],
)
def test_names_of_classes_are_different_words(classes, message):
    with pytest.raises(UserError, match=f'data.format: classes: {message}'):
        build_format(f'text(classes=({classes}))')


@pytest.mark.parametrize(('spec', 'row', 'message'), BAD)
def test_mistakes_say_where_they_are(write, spec, row, message):
    with pytest.raises(UserError, match=message):
        open_store(write(row or {'text': 'a'}, format=spec), 'train')


def test_several_parts_need_a_token_between_them(write):
    config = write({'prompt': 'p', 'response': 'r'}, format='prompt', tokenizer='chars')
    with pytest.raises(UserError, match=r'need a token between them, which data.tokenizer=chars'):
        open_store(config, 'train')
