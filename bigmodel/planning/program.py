"""A compiled program as XLA prints it: computations of instructions, and how often each runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'token': 0}
_ARRAY = re.compile(r'\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_CALLED = re.compile(r'\b(calls|to_apply|body|condition)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?[:=]\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: `on_chip` says that a TPU holds it in its vector memory, not in HBM, `on_host` that
    its host does.
    """

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False
    on_host: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether it is in the chip's main memory."""
        return not (self.on_chip or self.on_host)

    @property
    def num_bytes(self) -> int:
        """Without the padding of tiles."""
        return math.prod(self.dims) * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shapes opcode(operands), attributes`; a tuple has several shapes."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str  # what is between the parentheses
    attributes: str
    is_root: bool

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """The computations that it names, by attribute."""
        return dict(_CALLED.findall(self.attributes))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions.values() if i.is_root)


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations, and the one that runs."""

    computations: dict[str, Computation]
    entry: str

    def executed(self) -> Iterator[tuple[Computation, Instruction, float]]:
        """Every instruction of what is executed step by step, not of what is fused, with how often.

        The body of a loop counts as often as it runs: XLA's `known_trip_count`, or where that is
        missing the constant that the condition compares with. Of branches all count once.
        """
        yield from self._within(self.entry, 1.0)

    def _within(self, name: str, times: float) -> Iterator[tuple[Computation, Instruction, float]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            trips = self.trips(instruction) if instruction.opcode == 'while' else 1
            for called in self.executes(instruction):
                yield from self._within(called, times * trips)

    def executes(self, instruction: Instruction) -> tuple[str, ...]:
        """The computations that it runs step by step: the body of a loop, all branches."""
        called = instruction.called
        if instruction.opcode == 'while':
            return (called['body'],)
        if instruction.opcode == 'call':
            return (called.get('to_apply') or called['calls'],)
        if instruction.opcode == 'conditional':
            found = _BRANCHES.search(instruction.attributes)
            return tuple(b.strip().lstrip('%') for b in found[1].split(',')) if found else ()
        return ()

    def trips(self, loop: Instruction) -> int:
        """How often the body of a loop runs."""
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.called['condition']]
        bounds = [
            int(i.text)
            for i in condition.instructions.values()
            if i.opcode == 'constant' and i.text.lstrip('-').isdecimal()
        ]
        return max(bounds, default=1)  # a loop that ends by its data is counted once


def read_program(text: str) -> Program:
    """The program of `Compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = '', None
    for line in _whole_lines(text):
        header = _HEADER.match(line)
        if header:
            current = Computation(header[2], {})
            computations[header[2]] = current
            entry = header[2] if header[1] else entry
        elif current is not None and _LINE.match(line):
            instruction = _instruction(line)
            current.instructions[instruction.name] = instruction
    return Program(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, of which some strings of attributes have several."""
    held = ''
    for line in text.splitlines():
        starts = _LINE.match(line) or _HEADER.match(line) or line.startswith('}')
        if starts and held:
            yield held
            held = ''
        held = line if starts else held + line
    yield held


def _instruction(line: str) -> Instruction:
    found = _LINE.match(line)
    rest = line[found.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index('(')
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        found[2],
        rest[:opening],
        shapes_of(kind),
        tuple(re.findall(r'%([\w.\-]+)', inside)),
        inside,
        rest[closing + 1 :],
        bool(found[1]),
    )


def shapes_of(kind: str) -> tuple[Shape, ...]:
    """The arrays of a type, flattened."""
    return tuple(
        Shape(
            dtype,
            tuple(int(n) for n in dims.split(',') if n),
            'S(1)' in layout,
            'S(5)' in layout,
        )
        for dtype, dims, layout in _ARRAY.findall(kind)
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[i], 0)
        if not depth:
            return i
    raise AssertionError(f'unbalanced: {text[:80]}')


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    return int(re.search(r'\d+', dtype)[0])
