"""The bytes that an instruction reads from and writes to a chip's main memory."""

import re

from bigmodel.planning.program import Computation, Instruction, Program, Shape

# What moves nothing by itself: names, views, and what other instructions stand for.
_FREE = {
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'while',
    'conditional',
    'call',
    'after-all',
    'partition-id',
    'replica-id',
    'iota',
    'copy-done',
    'slice-done',
    'async-done',
    'async-update',
}
_SLICES = ('dynamic-slice', 'slice', 'gather')
_ALIASED = re.compile(r'\{(\d+)\}: \((\d+), \{')


def bytes_of(program: Program, where: Computation, instruction: Instruction) -> int:
    """Of one execution. What a fusion only slices counts as the slice, what it updates in place as
    the update; what a TPU holds in its vector memory counts nothing.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done'):
        return 0
    if opcode in ('copy-start', 'slice-start', 'async-start'):
        # Of (source or sources, destination, context) the destination is what moves.
        moved = max((s for s in instruction.shapes[1:]), key=lambda s: s.num_bytes)
        moved = instruction.shapes[0] if opcode == 'copy-start' else moved
        return 2 * moved.num_bytes if moved.in_memory else moved.num_bytes
    operands = [where.instructions[name].shapes for name in instruction.operands]
    if opcode == 'fusion':
        inner = program.computations[instruction.called['calls']]
        return _fused(inner, instruction, operands)
    if opcode in _SLICES:
        return 2 * _in_memory(instruction.shapes)
    if opcode == 'dynamic-update-slice':
        return 2 * _in_memory(operands[1])
    return _in_memory(instruction.shapes) + sum(map(_in_memory, operands))


def _fused(inner: Computation, fusion: Instruction, operands: list[tuple[Shape, ...]]) -> int:
    users: dict[str, list[Instruction]] = {}
    for i in inner.instructions.values():
        for name in i.operands:
            users.setdefault(name, []).append(i)
    read, passed = 0, {operand for _, operand in _in_flight(fusion)}
    for parameter in (i for i in inner.instructions.values() if i.opcode == 'parameter'):
        if int(parameter.text) in passed:
            continue
        given = operands[int(parameter.text)]
        uses = users.get(parameter.name, [])
        if uses and all(_is_part(use, parameter.name) for use in uses):
            part = sum(_part(inner, use) for use in uses)
            read += min(part, _in_memory(given))
        else:
            read += _in_memory(given) if len(given) == 1 else 0
    return read + _written(inner, fusion)


def _written(inner: Computation, fusion: Instruction) -> int:
    """An update in place writes as much as the update has."""
    passed = {output for output, _ in _in_flight(fusion)}
    root = inner.root
    results = [inner.instructions[n] for n in root.operands] if root.opcode == 'tuple' else [root]
    if len(results) != len(fusion.shapes):
        return _in_memory(tuple(s for i, s in enumerate(fusion.shapes) if i not in passed))
    total = 0
    for i, (made, shape) in enumerate(zip(results, fusion.shapes, strict=True)):
        if i in passed:
            continue
        while made.opcode in ('bitcast', 'copy', 'convert') and made.operands:
            made = inner.instructions[made.operands[0]]
        if made.opcode == 'parameter':
            continue  # handed through
        update = made.opcode == 'dynamic-update-slice'
        size = _part(inner, made) if update else _in_memory((shape,))
        total += size if shape.in_memory else 0
    return total


def _in_flight(fusion: Instruction) -> list[tuple[int, int]]:
    """Results and operands of a fusion that carry a collective on while something is computed: it
    moves a piece of them, which counts as the collective's.
    """
    if not fusion.called['calls'].startswith('async_collective'):
        return []
    text = fusion.attributes.partition('output_to_operand_aliasing=')[2].partition('}}')[0]
    return [(int(output), int(operand)) for output, operand in _ALIASED.findall(text)]


def _is_part(use: Instruction, name: str) -> bool:
    if use.opcode in _SLICES:
        return use.operands[0] == name
    return use.opcode == 'dynamic-update-slice' and use.operands[0] == name


def _part(inner: Computation, use: Instruction) -> int:
    if use.opcode == 'dynamic-update-slice':
        return inner.instructions[use.operands[1]].shapes[0].num_bytes
    return use.shapes[0].num_bytes


def _in_memory(shapes: tuple[Shape, ...]) -> int:
    return sum(s.num_bytes for s in shapes if s.in_memory)
