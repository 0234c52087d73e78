"""Spec strings: what parses, what is refused, and what the errors say."""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import pytest
from flax import linen as nn

from bigmodel.errors import UserError
from bigmodel.specs import SHARE, Spec, arguments, bind, make, parse


@dataclasses.dataclass(frozen=True)
class Part:
    """One argument of every kind that a spec can give."""

    width: int
    rate: float = 0.5
    name: str = 'a'
    on: bool = False
    sizes: tuple[int, ...] = ()
    limit: int | None = None
    mode: Literal['fast', 'slow'] = 'fast'
    share: Annotated[float, SHARE] = 0.0

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError(f'rate must be at most 1, got {self.rate}')


class Layer(nn.Module):
    """A linen part: its `parent` and `name` are not a user's."""

    size: int = 3


def function(step: int, *, peak: float = 1.0) -> float:
    """A part that is a function."""
    return step * peak


TABLE = {'part': Part, 'layer': Layer, 'function': function, 'short': lambda scale=2: scale}


@pytest.mark.parametrize(
    ('text', 'spec'),
    [
        ('rope', Spec('rope')),
        (' rope ', Spec('rope')),
        ('rope()', Spec('rope')),
        ('rope(1e4)', Spec('rope', (1e4,))),
        (
            'rope(theta=5e5, scaling="yarn", factor=-8)',
            Spec('rope', (), {'theta': 5e5, 'scaling': 'yarn', 'factor': -8}),
        ),
        ('window((1, 2), on=None)', Spec('window', ((1, 2),), {'on': None})),
        ('f([1], {"a": True})', Spec('f', ([1], {'a': True}))),
    ],
)
def test_parse(text: str, spec: Spec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    'text',
    [
        '',
        'a b',
        'rope(',
        '3',
        '"rope"',
        'a.b',
        'a.b()',
        'rope + rope',
        'rope(theta)',
        'rope(**{"theta": 1})',
        'rope(*[1])',
        'f(g(1))',
        'rope(1)(2)',
        'rope(theta=1, theta=2)',
        'rope\nrope',
        'rope(x\x00)',
        # Code is never run.
        '__import__("os").system("false")',
        'f(__import__("os"))',
        'f(open("/etc/passwd").read())',
        'f((lambda: 1)())',
        'f([x for x in ()])',
        'f(f"{1}")',
        'f(x := 1)',
        'f(10 ** 10 ** 10)',
        '(' * 300,
    ],
)
def test_anything_but_a_name_with_literals_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r'slot: cannot read .* literal values'):
        parse(text, 'slot')


def test_positional_and_keyword_arguments_are_the_same() -> None:
    want = Part(3, 0.25, 'b', True, (1, 2), 7, 'slow')
    by_position = 'part(3, 0.25, "b", True, (1, 2), 7, "slow")'
    by_name = 'part(mode="slow", limit=7, sizes=(1, 2), on=True, name="b", rate=0.25, width=3)'
    mixed = 'part(3, 0.25, sizes=[1, 2], name="b", on=True, limit=7, mode="slow")'
    for text in (by_position, by_name, mixed):
        assert make(TABLE, text, 'slot') == want


def test_an_integer_is_a_float_where_one_is_expected() -> None:
    made = make(TABLE, 'part(1, rate=1)', 'slot')
    assert type(made.rate) is float


def test_context_fills_what_a_part_has_and_hides_it_from_the_user() -> None:
    assert make(TABLE, 'part(0.25)', 'slot', width=9, unrelated=1) == Part(9, 0.25)
    with pytest.raises(UserError, match="has no argument 'width'"):
        make(TABLE, 'part(width=3)', 'slot', width=9)


def test_functions_lambdas_and_partials_are_parts() -> None:
    assert bind(TABLE, 'function(peak=2.0)', 'slot', step=None).keywords == {
        'step': None,
        'peak': 2.0,
    }
    assert make(TABLE, 'short(scale=5)', 'slot') == 5
    table = {'half': functools.partial(Part, width=2)}
    assert make(table, 'half(rate=0.1)', 'slot') == Part(2, 0.1)
    assert 'width' not in arguments(table['half'])


def test_linens_own_fields_are_not_arguments() -> None:
    assert list(arguments(Layer)) == ['size']
    with pytest.raises(UserError, match=r"has no argument 'name'.*Its arguments: size=3"):
        make(TABLE, 'layer(name="x")', 'slot')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'prat',
            "unknown slot 'prat'. Did you mean 'part'\\? Choices: function, layer, part, short",
        ),
        ('xyzzy', "unknown slot 'xyzzy'. Choices:"),
        (
            'part(1, rte=1.0)',
            "slot: part has no argument 'rte'. Did you mean 'rate'.*rate=0.5, name='a'",
        ),
        ('part(1, 2, 3, 4, 5, 6, 7, 8, 9)', 'slot: part takes at most 8 arguments'),
        ('part(1, share=1)', r'slot: part\(share=...\): must be in \[0, 1\), got 1.0'),
        ('part(1, share=-0.1)', r'slot: part\(share=...\): must be in \[0, 1\), got -0.1'),
        ('part(1, share=True)', r'slot: part\(share=...\): expected float, got True'),
        ('part(1, width=2)', "slot: part got 'width' twice"),
        ('part', "slot: part needs the argument 'width'"),
        ('part("3")', r"slot: part\(width=...\): expected int, got '3'"),
        ('part(3.0)', r'slot: part\(width=...\): expected int, got 3.0'),
        ('part(True)', r'slot: part\(width=...\): expected int, got True'),
        ('part(1, rate=True)', r'slot: part\(rate=...\): expected float, got True'),
        ('part(1, name=3)', r'slot: part\(name=...\): expected str, got 3'),
        ('part(1, on=1)', r'slot: part\(on=...\): expected bool, got 1'),
        ('part(1, sizes=3)', r'slot: part\(sizes=...\): expected tuple, got 3'),
        ('part(1, limit="x")', r"slot: part\(limit=...\): expected int or None, got 'x'"),
        (
            'part(1, mode="medium")',
            r"slot: part\(mode=...\): expected 'fast' or 'slow', got 'medium'",
        ),
        ('part(1, rate=2.0)', r'slot: part\(1, rate=2.0\): rate must be at most 1, got 2.0'),
    ],
)
def test_errors_name_the_slot_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(TABLE, text, 'slot')


def test_none_is_a_value_where_it_is_allowed() -> None:
    assert make(TABLE, 'part(1, limit=None)', 'slot') == Part(1)


def test_an_error_is_one_line() -> None:
    with pytest.raises(UserError) as e:
        make(TABLE, 'prat', 'slot')
    assert '\n' not in str(e.value)


def test_table_without_entries_says_so() -> None:
    empty: dict[str, Any] = {}
    with pytest.raises(UserError, match='Choices: none'):
        make(empty, 'x', 'slot')
