"""Functions and their summaries: taken apart as by hand, split by file, none in two splits."""

import ast

import pytest

from bigmodel.data.datasets.stdlib_summaries import summaries, summaries_of
from bigmodel.data.sources import build_source
from bigmodel.data.splits import SPLITS
from bigmodel.data.store import open_store
from bigmodel.errors import UserError

CODE = '''
class A:
    @property
    def one(self, x):
        """Return x.

        More.
        """
        return x  # as it is

    def two(self):
        """Do nothing."""

    def three(self): "In one line."; return 3

    async def four(self):
        """
        Wait.
        """
        def inner():
            """Return 1."""
            return 1
        return inner()
'''


def test_docstrings_are_taken_out_and_their_first_lines_are_the_answers():
    found = {s.function.partition('(')[0].split()[-1]: s for s in summaries_of(CODE)}
    assert list(found) == ['one', 'four', 'inner']
    assert found['one'] == ('def one(self, x):\n    return x  # as it is', 'Return x.')
    assert found['four'].summary == 'Wait.'
    assert found['inner'] == ('def inner():\n    return 1', 'Return 1.')
    assert list(summaries_of('print "two"')) == []


def test_every_split_has_some_and_no_function_is_in_two():
    found = summaries()
    assert list(found) == list(SPLITS)
    functions = {split: {s.function for s in found[split]} for split in SPLITS}
    assert all(len(each) > 200 for each in functions.values())
    assert not functions['train'] & (functions['validation'] | functions['test'])
    assert not functions['validation'] & functions['test']
    for each in found['validation'][:50]:
        (node,) = ast.parse(each.function).body
        assert each.summary and '\n' not in each.summary
        assert each.summary not in (ast.get_docstring(node) or '')


def test_the_source_leaves_out_what_is_longer(make_config):
    config = make_config(source='pystdlib_summaries(longest=100)', format='prompt')
    source = build_source(config, 'test')
    assert 0 < len(source) < len(summaries()['test'])
    for i in range(len(source)):
        assert len(source[i]['prompt']) + len(source[i]['response']) <= 100
    store = open_store(config, 'test')
    assert store.num_documents == len(source) and store.marked
    for row in (source[i] for i in range(len(source))):
        assert len(set(row['options'])) == len(row['options']) == 4
        assert row['options'][row['label']] == row['response'] != row['other'] in row['options']
    rows = [source[i] for i in range(len(source))]
    assert {(row['label'], row['belongs']) for row in rows} == {
        (label, belongs) for label in range(4) for belongs in ('no', 'yes')
    }
    for row in rows:
        assert (row['candidate'] == row['response']) == (row['belongs'] == 'yes')
        assert row['candidate'] in (row['response'], row['other'])
        assert row['lines'] == len(row['prompt'].splitlines())
    assert source.class_names('belongs') == ('no', 'yes')
    with pytest.raises(UserError, match="no classes, so label='lines' names none"):
        source.class_names('lines')
    more = build_source(make_config(source='pystdlib_summaries(longest=200)'), 'test')
    assert more.fingerprint != source.fingerprint and more.quick_key() != source.quick_key()
    with pytest.raises(UserError, match='must be positive, got 0'):
        build_source(make_config(source='pystdlib_summaries(longest=0)'), 'test')
    with pytest.raises(UserError, match=r"unknown split of data\.source 'dev'"):
        build_source(config, 'dev')
