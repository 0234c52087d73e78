"""Words of Python with their classes: as by hand, nothing lost, split by file."""

import pytest

from bigmodel.data.datasets import stdlib_files
from bigmodel.data.datasets.stdlib_tokens import CLASSES, words
from bigmodel.data.sources import build_documents, build_source
from bigmodel.errors import UserError

CODE = 'def f(x):  # one\n    return "a\nb"' + "'''c\nd''' \\\n        + 2.5\n\n"
WANT = [
    ('def', 'keyword'),
    ('f', 'name'),
    ('(', 'operator'),
    ('x', 'name'),
    (')', 'operator'),
    (':', 'operator'),
    ('# one', 'comment'),
    ('return', 'keyword'),
    ("'''c\nd'''", 'string'),
    ('+', 'operator'),
    ('2.5', 'number'),
]


def test_words_have_the_classes_of_pythons_lexer_and_white_space_has_none():
    code = CODE.replace('"a\nb"', '')
    found = words(code)
    assert ''.join(word.text for word in found) == code
    assert [tuple(word) for word in found if word.kind] == WANT
    assert all(not word.text.strip('\\\n ') for word in found if not word.kind)
    assert words('x = (') == []  # no Python


def test_nothing_of_a_file_is_lost_and_all_classes_are_there(make_config):
    config = make_config(source='pystdlib_tokens', format='tags(join="")')
    source = build_source(config, 'validation')
    assert source.class_names('tags') == CLASSES
    kinds, texts = set(), {d.text for d in stdlib_files.documents()}
    for i in range(0, len(source), len(source) // 4):
        row = source[i]
        assert ''.join(row['tokens']) in texts and len(row['tokens']) == len(row['tags'])
        kinds |= set(row['tags'])
    assert kinds == {None, *CLASSES}
    (document,) = build_documents(config, 'validation')[0]
    pieces = [piece for part in document.parts for piece in part]
    assert ''.join(piece.text for piece in pieces) in texts
    with pytest.raises(UserError, match="has classes in tags, not in 'label'"):
        source.class_names('label')
