"""Local files as documents: splits, random access, and every mistake."""

import json
import pickle

import pytest

from bigmodel.data import sources
from bigmodel.data.store import open_store
from bigmodel.errors import UserError


def read(config, split):
    """The documents of a format of one text and a label."""
    documents = sources.build_documents(config, split)
    found = []
    for i in range(len(documents)):
        (((((text, _, _),),), label),) = documents[i]
        found.append({'text': text} | ({'label': label} if documents.label_names else {}))
    return found


def write_jsonl(path, rows):
    path.write_text('\n'.join(json.dumps(r) for r in rows) + '\n')
    return str(path)


def test_one_file_is_split_by_characters_at_the_end(tmp_path, make_config):
    text = ''.join(chr(0xE0 + i % 20) for i in range(1003)) + '\r\n'
    (tmp_path / 'a.txt').write_bytes(text.encode())
    config = make_config(path=str(tmp_path / 'a.txt'), source='text(validation=0.1)')
    (train,), (validation,) = read(config, 'train'), read(config, 'validation')
    assert train['text'] == text[: int(0.9 * len(text))]
    assert train['text'] + validation['text'] == text


def test_many_files_are_split_by_file(texts, make_config):
    config = make_config(path=f'{texts}/*.txt', source='text(validation=0.2, test=0.1)')
    parts = [[d['text'] for d in read(config, s)] for s in ('train', 'validation', 'test')]
    assert [len(p) for p in parts] == [14, 4, 2]
    everything = sorted(f.read_text() for f in texts.iterdir())
    assert sorted(p for part in parts for p in part) == everything


def test_the_split_can_be_part_of_the_path(tmp_path, make_config):
    for split in ('train', 'validation'):
        (tmp_path / f'{split}.txt').write_text(f'this is {split}')
    config = make_config(path=f'{tmp_path}/{{split}}.txt')
    assert read(config, 'validation') == [{'text': 'this is validation'}]
    with pytest.raises(UserError, match=r'no split .test.; there are: train, validation'):
        read(config, 'test')


def test_moving_a_folder_keeps_splits_and_fingerprint(texts, tmp_path, make_config):
    before = make_config(path=f'{texts}/*')
    old = sources.build_source(before, 'train').fingerprint, read(before, 'train')
    texts.rename(tmp_path / 'moved')
    after = make_config(path=f'{tmp_path}/moved/*')
    assert (sources.build_source(after, 'train').fingerprint, read(after, 'train')) == old


def test_fingerprint_follows_content_and_quick_key_follows_files(texts, make_config):
    config = make_config(path=f'{texts}/*')
    before = sources.build_source(config, 'train')
    old = before.fingerprint, before.quick_key()
    content = (texts / '03.txt').read_bytes()
    (texts / '03.txt').write_bytes(content.replace(b'3', b'4'))  # the same size
    after = sources.build_source(config, 'train')
    assert after.fingerprint != old[0]
    assert after.quick_key() != old[1]


def test_the_same_files_split_in_another_way_are_another_data_set(tmp_path, make_config):
    for split in ('train', 'validation'):
        (tmp_path / f'{split}.txt').write_text(f'this is {split}')
    paths = (f'{tmp_path}/*.txt', f'{tmp_path}/{{split}}.txt')
    built = [sources.build_source(make_config(path=p), 'train') for p in paths]
    assert built[0].fingerprint != built[1].fingerprint
    assert built[0].quick_key() != built[1].quick_key()


def test_jsonl_random_access_and_labels(tmp_path, make_config):
    rows = [{'body': f'document é {i}\n', 'kind': 'abc'[i % 3]} for i in range(50)]
    path = write_jsonl(tmp_path / 'a.jsonl', rows)
    text = 'text("body", label="kind")'
    config = make_config(path=path, source='jsonl(validation=0.2)', format=text)
    train, validation = (sources.build_documents(config, s) for s in ('train', 'validation'))
    assert train.label_names == validation.label_names == ('a', 'b', 'c')
    assert (len(train), len(validation)) == (40, 10)
    assert train[3] == train[3] != train[4]  # in any order
    found = read(config, 'train') + read(config, 'validation')
    expected = [{'text': r['body'], 'label': 'abc'.index(r['kind'])} for r in rows]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_jsonl_class_numbers_and_blank_lines(tmp_path, make_config):
    (tmp_path / 'a.jsonl').write_text('\n{"text": "x", "label": 2}\n\n{"text": "y", "label": 0}')
    config = make_config(
        path=str(tmp_path / 'a.jsonl'), source='jsonl', format='text(label="label")'
    )
    assert sources.build_documents(config, 'train').label_names == ('0', '1', '2')


@pytest.mark.parametrize('name', ['text', 'jsonl'])
def test_sources_survive_pickling(tmp_path, make_config, name):
    path = write_jsonl(tmp_path / 'a.jsonl', [{'text': str(i), 'label': i} for i in range(9)])
    source = sources.build_source(make_config(path=path, source=name), 'train')
    before = [source[i] for i in range(len(source))]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(len(copy))] == before


BAD_FILES = [
    ('text', b'', 'is empty'),
    ('text', 'é'.encode('latin1') + b'abc', 'byte 0 is not UTF-8'),
    ('jsonl', b'', 'is empty'),
    ('jsonl', b'{"text": "a"}\n{"text": \n', ':2: not JSON'),
    ('jsonl', b'{"text": "a"}\n[1]\n', ':2: a line must be a JSON object'),
    ('jsonl', b'{"txt": "a"}\n{"b": 1}\n', "no field 'text'.*Fields there: "),
    ('jsonl', b'{"text": 1}\n{"text": 1}\n', "field 'text' is 1, but must be a string"),
    ('jsonl', b'{"text": "a"}\n{"text": "\xe9"}\n', ':2: byte 10 is not UTF-8'),
    ('jsonl', b'{"text": "\\ud800"}\n{"text": "\\ud800"}\n', 'lone surrogate'),
    (
        'jsonl y',
        b'{"text": "a", "y": 0}\n{"text": "a", "y": -1}\n',
        ":2: field 'y' is -1, but must be",
    ),
    (
        'jsonl y',
        b'{"text": "a", "y": 0.5}\n',
        ":1: field 'y' is 0.5, but must",
    ),
    ('jsonl y', b'{"text": "a", "y": 0}\n{"text": "a", "y": "b"}\n', 'jsonl:1 and str'),
    ('jsonl z', b'{"text": "a", "y": 0}\n', ":1: no field 'z'.*Fields there: text, y"),
]


@pytest.mark.parametrize('source,content,message', BAD_FILES)
def test_bad_files_are_user_errors(tmp_path, make_config, source, content, message):
    (tmp_path / 'a.jsonl').write_bytes(content)
    source, _, label = source.partition(' ')
    text = f'text(label={label!r})'
    config = make_config(path=str(tmp_path / 'a.jsonl'), source=source, format=text)
    with pytest.raises(UserError, match=message):
        for split in ('train', 'validation'):
            _ = sources.build_documents(config, split).label_names
            open_store(config, split)


BAD_CONFIGS = [
    ({'source': 'textt'}, 'Did you mean .text.'),
    ({'source': 'text', 'path': ''}, 'data.path is empty'),
    ({'source': 'text', 'path': 'nowhere/*.txt'}, 'no such file'),
    ({'source': 'text', 'path': '.'}, 'is a folder'),
    ({'source': 'text(validation=1.0)', 'path': '*'}, 'shares'),
    ({'source': 'text(validation="a")', 'path': '*'}, 'expected float'),
    ({'source': 'jsonl(tset=0.1)', 'path': '*'}, 'Did you mean .test.'),
]


@pytest.mark.parametrize('keys,message', BAD_CONFIGS)
def test_bad_configs_are_user_errors(make_config, keys, message):
    with pytest.raises(UserError, match=message):
        sources.build_source(make_config(**keys), 'train')


def test_a_missing_split_lists_those_there(texts, make_config):
    config = make_config(path=f'{texts}/*')
    with pytest.raises(UserError, match=r"no split 'test'; there are: train, validation"):
        sources.build_source(config, 'test')
    with pytest.raises(UserError, match=r'Choices: test, train, validation'):
        sources.build_source(make_config(source='pystdlib'), 'valid')
