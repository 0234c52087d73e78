"""What is in memory when a program holds the most: its temporary buffers, and whose they are.

A compiled program runs its instructions in the order in which they are written. Each makes a buffer
for its result, which is free again after its last use; some change an operand in place, and results
of the whole program are no temporaries. XLA's own assignment may do better or worse than this, but
not by much (`tests/planning/test_exhausted.py`).
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable

from bigmodel.planning.program import Computation, Instruction, Program, Shape
from bigmodel.planning.sources import Sources

_NOT_OURS = -1  # of arguments, constants, and of whoever called
_NO_BUFFER = ('parameter', 'constant', 'partition-id', 'replica-id', 'after-all')
_VIEWS = ('bitcast', 'while', 'optimization-barrier')
_MOVES = ('bitcast', 'broadcast', 'copy', 'convert', 'reshape', 'transpose')
_IN_PLACE = ('dynamic-update-slice', 'scatter')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_INDEX = re.compile(r'\bindex=(\d+)')
# What JAX's transformations add to the names of modules.
_WRAPPER = re.compile(
    r'(\w*\(.*\)|closed_call|core_call|while|body|cond|scan|checkpoint|remat|rematted_computation|'
    r'shard_map|custom_[jv][vj]p_call|branch_\d+_fun)$'
)
_OUTERMOST = re.compile(r'[A-Z]\w*\.\w+$')  # Model._outputs, a method of the whole model


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Arrays in a device's memory: `count` alike of `num_bytes` together. `layer` is a path of
    modules, `phase` forward, backward or update, `source` a file and line; '' where not known.
    """

    shape: str  # f32[8,128,384]
    num_bytes: int
    layer: str
    phase: str
    source: str
    count: int = 1


def largest(text: str, program: Program) -> list[Buffer]:
    """The temporary buffers that are there together when they take the most memory, the largest
    first, those that are alike as one.
    """
    sources = Sources(text)
    found = []
    for shape, instruction in Lifetimes(program).peak(program.entry)[1]:
        name = _OP_NAME.search(instruction.attributes)
        layer, phase = layer_of(name[1] if name else '')
        kind = f'{shape.dtype}[{",".join(map(str, shape.dims))}]'
        source = sources.of(instruction.attributes)
        found.append(Buffer(kind, shape.num_bytes, layer, phase, source))
    return merged(found)


def merged(found: Iterable[Buffer]) -> list[Buffer]:
    """Those that are alike as one, the largest first."""
    counts = collections.Counter(found)
    alike = [dataclasses.replace(b, num_bytes=b.num_bytes * n, count=n) for b, n in counts.items()]
    return sorted(alike, key=lambda b: -b.num_bytes)


def layer_of(op_name: str) -> tuple[str, str]:
    """The path of modules in an op_name, and the phase of the step that it is of."""
    phase = 'backward' if 'transpose(' in op_name else 'forward' if 'jvp(' in op_name else ''
    # The parameters of a primitive, in older versions, may have slashes; einsums have a name too.
    parts = [p for p in op_name.partition('[')[0].split('/') if not _WRAPPER.match(p)]
    parts = [p for p in parts[:-1] if re.fullmatch(r'[\w.]+', p)] + parts[-1:]
    parts = parts[1:] if parts and _OUTERMOST.match(parts[0]) else parts
    # 'mixer/mixer._attend' is a method of mixer.
    pairs = itertools.pairwise(parts)
    layer = '/'.join(part for part, after in pairs if not after.startswith(f'{part}.'))
    return layer, phase if phase or layer or not op_name else 'update'


def _is_of_layer(i: Instruction) -> bool:
    """Whether its name says more than which stack of layers it is of."""
    name = _OP_NAME.search(i.attributes)
    return '/' in layer_of(name[1] if name else '')[0]


Made = list[tuple[Shape, Instruction]]
Numbers = dict[str, tuple[int, ...]]
Here = dict[str, Instruction]


class Lifetimes:
    """When the buffers of a program are there."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._peaks: dict[str, tuple[int, Made]] = {}

    def peak(self, name: str) -> tuple[int, Made]:
        """The most bytes of a computation's own buffers, and what these are and come from."""
        if name not in self._peaks:
            self._peaks[name] = self._peak(self._program.computations[name])
        return self._peaks[name]

    def _peak(self, computation: Computation) -> tuple[int, Made]:
        numbers, made = self._buffers(computation)
        order = list(computation.instructions.values())
        last = {
            n: at
            for at, i in enumerate(order)
            for name in (i.name, *i.operands)
            for n in numbers.get(name, ())
        }
        # What is returned is the caller's.
        there, seen = set[int](), {_NOT_OURS, *numbers[computation.root.name]}
        now, most, best = 0, 0, Made()
        for at, i in enumerate(order):
            new = {*numbers[i.name]} - seen
            there, seen = there | new, seen | new
            now += sum(made[n][0].num_bytes for n in new)
            within, inner = self._inner(i)
            if now + within > most:
                most, best = now + within, [*(made[n] for n in there), *inner]
            free = {n for n in there if last[n] <= at}
            there -= free
            now -= sum(made[n][0].num_bytes for n in free)
        return most, best

    def _inner(self, i: Instruction) -> tuple[int, Made]:
        """Of the computations that an instruction executes, the one that takes the most."""
        names = list(self._program.executes(i))
        return max((self.peak(n) for n in names), key=lambda p: p[0], default=(0, Made()))

    def _buffers(self, computation: Computation) -> tuple[Numbers, Made]:
        """The numbers of the buffers of every instruction, and what made each."""
        numbers: Numbers = {}
        made, here = Made(), computation.instructions
        for i in computation.instructions.values():
            shared = self._shared(i, numbers, here)
            for place, shape in enumerate(i.shapes):
                if shape.on_chip:
                    shared[place] = _NOT_OURS  # not in the memory that is short
                elif place not in shared:
                    shared[place] = len(made)
                    made.append((shape, i))
            numbers[i.name] = tuple(shared[place] for place in range(len(i.shapes)))
            if i.opcode == 'while':
                for n, written in zip(numbers[i.name], self._stacked(i), strict=False):
                    if written and n != _NOT_OURS:
                        made[n] = (made[n][0], written)  # not the zeros that it began with
        return numbers, made

    def _shared(self, i: Instruction, numbers: Numbers, here: Here) -> dict[int, int]:
        """The buffers of its results that an instruction does not make, by place."""
        given = [numbers.get(name, ()) for name in i.operands]
        if i.opcode in _NO_BUFFER:
            return dict.fromkeys(range(len(i.shapes)), _NOT_OURS)
        if i.opcode == 'tuple':
            return dict(enumerate(n for operand in given for n in operand))
        if i.opcode == 'get-tuple-element':
            first = int(_INDEX.search(i.attributes)[1])
            return dict(enumerate(given[0][first : first + len(i.shapes)]))
        if i.opcode in _VIEWS or i.opcode.endswith('-done'):
            return dict(enumerate(given[0][-len(i.shapes) :]))
        return self._updated(i, numbers, here)

    def _stacked(self, loop: Instruction) -> list[Instruction | None]:
        """What a loop writes into each of the arrays that it fills in place; None for others."""
        body = self._program.computations[loop.called['body']]
        if body.root.opcode != 'tuple':
            return []
        return [self._written(body.instructions[n], body.instructions) for n in body.root.operands]

    def _written(self, i: Instruction, here: Here) -> Instruction | None:
        """What an instruction writes into an operand; that is where it is named after a layer."""
        part, inside, maker = i, here, i
        if i.opcode == 'get-tuple-element':
            maker = here[i.operands[0]]
        if maker.opcode == 'fusion':
            fused = self._program.computations[maker.called['calls']]
            part, inside = fused.root, fused.instructions
            if part.opcode == 'tuple' and i is not maker:
                part = inside[part.operands[int(_INDEX.search(i.attributes)[1])]]
        if part.opcode == 'bitcast':
            part = inside[part.operands[0]]
        if part.opcode != 'dynamic-update-slice':
            return None
        value = inside[part.operands[1]]
        while not _is_of_layer(value):
            if value.opcode == 'parameter' and inside is not here:
                value, inside = here[maker.operands[int(value.text)]], here
            elif value.opcode in _MOVES:
                value = inside[value.operands[0]]
            else:
                return i
        return value

    def _updated(self, i: Instruction, numbers: Numbers, here: Here) -> dict[int, int]:
        """Those of operands that it changes in place: the first of the same shape."""
        inside, parts = {}, [i]
        if i.opcode == 'fusion':
            fused = self._program.computations[i.called['calls']]
            inside, root = fused.instructions, fused.root
            parts = [inside[n] for n in root.operands] if root.opcode == 'tuple' else [root]
        free = [
            pair
            for name in i.operands
            if name in numbers
            for pair in zip(numbers[name], here[name].shapes, strict=True)
        ]
        found = {}
        for place, (part, shape) in enumerate(zip(parts, i.shapes, strict=False)):
            part = inside[part.operands[0]] if part.opcode == 'bitcast' and inside else part
            alike = [pair for pair in free if pair[1] == shape]
            if part.opcode in _IN_PLACE and alike:
                found[place] = alike[0][0]
                free.remove(alike[0])
        return found
