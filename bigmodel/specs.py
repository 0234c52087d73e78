"""Spec strings: a slot of the config is a `str` such as `'rope(theta=5e5)'`.

`parse` reads one (literals only, through `ast`; nothing is evaluated), `bind` checks it against a
table of parts and returns a constructor. Tables are dict literals, name -> class or function; the
arguments that a spec may give are the keyword arguments of that class or function. An annotation
such as `Annotated[float, SHARE]` also holds a number to its range.
"""

import ast
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel.errors import UserError, nearest, unknown


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers an argument may be, and how to say so."""

    holds: Callable[[float], bool]
    words: str


SHARE = Range(lambda x: 0 <= x < 1, 'in [0, 1)')
FRACTION = Range(lambda x: 0 <= x <= 1, 'in [0, 1]')
POSITIVE = Range(lambda x: x > 0, 'positive')
NOT_NEGATIVE = Range(lambda x: x >= 0, 'at least 0')


@dataclasses.dataclass(frozen=True)
class Spec:
    """A parsed spec string: `name(*args, **kwargs)`."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def parse(text: str, slot: str = 'spec') -> Spec:
    """Parses `'name'` or `'name(1, key="value")'`; raises UserError when it is neither."""
    if not isinstance(text, str):
        raise UserError(f'{slot}: expected a spec string, got {text!r}')
    try:
        node = ast.parse(text.strip(), mode='eval').body
        if isinstance(node, ast.Name):
            return Spec(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            args = tuple(ast.literal_eval(a) for a in node.args)
            kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
            # Python only refuses `**` and repeated names when it runs them, which is never.
            if None not in kwargs and len(kwargs) == len(node.keywords):
                return Spec(node.func.id, args, kwargs)
    except (SyntaxError, ValueError, TypeError):
        pass
    raise UserError(
        f"{slot}: cannot read {text!r}; write 'name' or 'name(key=value)' with literal values"
    )


def bind(table: Mapping[str, Callable], text: str, slot: str, **context: Any) -> Callable:
    """Looks `text` up in `table` and returns the part's constructor with the arguments bound.

    `context` holds what the builder knows (a width, a dtype): an entry is passed on when the part
    has a parameter of that name, and is then not the user's to set. Raises UserError for an unknown
    part, an unknown argument, or a value of the wrong type.
    """
    spec = parse(text, slot)
    if spec.name not in table:
        raise unknown(slot, spec.name, table)
    part = table[spec.name]
    known = arguments(part)
    given = {k: v for k, v in context.items() if k in known}
    free = {k: p for k, p in known.items() if k not in given}
    kwargs = _name_positional(spec, free, slot)
    for key, value in kwargs.items():
        if key not in free:
            listed = ', '.join(f'{k}={p.default!r}' for k, p in free.items()) or 'none'
            raise UserError(
                f'{slot}: {spec.name} has no argument {key!r}.{nearest(key, free)} '
                f'Its arguments: {listed}'
            )
        kwargs[key] = _checked(value, free[key], f'{slot}: {spec.name}({key}=...)')
    missing = [k for k, p in free.items() if p.default is p.empty and k not in kwargs]
    if missing:
        raise UserError(f'{slot}: {spec.name} needs the argument {missing[0]!r}')
    return functools.partial(part, **given, **kwargs)


def spelt_out(
    table: Mapping[str, Callable], text: str, slot: str, given: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The part of a spec that `bind` accepts, with all of its arguments, also those left out; a
    builder sets those that are `given`. A name that is no part, as 'auto', has none.
    """
    spec = parse(text, slot)
    if spec.name not in table:
        return {text: {}}
    free = {k: p for k, p in arguments(table[spec.name]).items() if k not in given}
    named = _name_positional(spec, free, slot)
    kwargs = {k: _checked(v, free[k], f'{slot}: {spec.name}({k}=...)') for k, v in named.items()}
    return {spec.name: {k: p.default for k, p in free.items()} | kwargs}


def make(table: Mapping[str, Callable], text: str, slot: str, **context: Any) -> Any:
    """`bind`, then construct; a ValueError of the constructor is reported with the slot's name."""
    constructor = bind(table, text, slot, **context)
    try:
        return constructor()
    except UserError:
        raise
    except ValueError as e:
        raise UserError(f'{slot}: {text}: {e}') from e


def arguments(part: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a part that a spec or a builder may set, by name, in order."""
    if isinstance(part, functools.partial):
        bound = part.keywords
        return {k: p for k, p in arguments(part.func).items() if k not in bound}
    hidden = ('parent', 'name') if hasattr(part, 'apply') else ()  # linen's own two fields
    parameters = inspect.signature(part).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in parameters if p.kind in kinds and p.name not in hidden}


def describe(parameter: inspect.Parameter) -> str:
    """What a value of this argument must be, in words: 'float, positive'."""
    kind, *ranges = _without_ranges(parameter.annotation)
    kinds = ' or '.join(n for k in _types(kind) for n in _names(k))
    return ', '.join([kinds.replace('Any', 'any value'), *(r.words for r in ranges)])


def _name_positional(spec: Spec, free: Mapping[str, Any], slot: str) -> dict[str, Any]:
    if len(spec.args) > len(free):
        raise UserError(f'{slot}: {spec.name} takes at most {len(free)} arguments ({spec.args})')
    named = dict(zip(free, spec.args, strict=False))
    for key in spec.kwargs:
        if key in named:
            raise UserError(f'{slot}: {spec.name} got {key!r} twice')
    return {**named, **spec.kwargs}


def _checked(value: Any, parameter: inspect.Parameter, what: str) -> Any:
    """Holds `value` against its annotation: a simple type, and a range where there is one."""
    kind, *ranges = _without_ranges(parameter.annotation)
    value = _typed(value, kind, what)
    for allowed in ranges:
        if not allowed.holds(value):
            raise UserError(f'{what}: must be {allowed.words}, got {value!r}')
    return value


def _without_ranges(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is not typing.Annotated:
        return (annotation,)
    kind, *notes = typing.get_args(annotation)
    return (kind, *(n for n in notes if isinstance(n, Range)))


def _typed(value: Any, annotation: Any, what: str) -> Any:
    """`value` as int, float, str, bool, tuple, None or one of a Literal's choices."""
    allowed = _types(annotation)
    if float in allowed and type(value) is int:
        return float(value)
    if tuple in allowed and isinstance(value, list):
        return tuple(value)
    for kind in allowed:
        if kind is Any or (isinstance(kind, type) and type(value) is kind) or value is kind:
            return value
        if typing.get_origin(kind) is typing.Literal and value in typing.get_args(kind):
            return value
    names = ' or '.join(n for kind in allowed for n in _names(kind))
    raise UserError(f'{what}: expected {names}, got {value!r}')


def _names(kind: Any) -> list[str]:
    if typing.get_origin(kind) is typing.Literal:
        return [repr(choice) for choice in typing.get_args(kind)]
    return [getattr(kind, '__name__', str(kind))]


def _types(annotation: Any) -> tuple[Any, ...]:
    if annotation is inspect.Parameter.empty:
        return (Any,)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = tuple(t for a in typing.get_args(annotation) for t in _types(a))
        return tuple(t for t in members if t is not Any) or (Any,)  # a spec holds no arrays
    if annotation is type(None):
        return (None,)
    if typing.get_origin(annotation) in (tuple, list):
        return (tuple,)
    simple = annotation in (int, float, str, bool, tuple) or annotation is Any
    return (annotation,) if simple or typing.get_origin(annotation) is typing.Literal else (Any,)
