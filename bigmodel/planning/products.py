"""The floating-point operations of matrix products in a compiled program, instruction by
instruction; on a TPU products are convolutions, and attention is a kernel that XLA cannot see into.
"""

import math
import re

import numpy as np

from bigmodel.planning.program import Computation, Instruction, Program, Shape

# Matrix products over all query-key pairs of a splash kernel, and the operand that has the keys:
# of the forward pass QKᵀ and PV; for keys and values also dP, dV and dK; for queries QKᵀ, dP, dQ.
_SPLASH = (('splash_mha_fwd', 2), ('splash_mha_dkv', 4), ('splash_mha_dq', 3))

_PRODUCTS = ('dot', 'convolution')


def flops_of(program: Program, where: Computation, instruction: Instruction, of: str = '') -> float:
    """Of one execution, with what is fused into it; with `of` only products of that type."""
    opcode = instruction.opcode
    if of and opcode == 'custom-call':
        return 0.0  # attention, which reads no such type
    if of and opcode in _PRODUCTS and _shape(where, instruction.operands[0]).dtype != of:
        return 0.0
    if opcode == 'dot':
        return _dot(where, instruction)
    if opcode == 'convolution':
        return _convolution(where, instruction)
    if opcode == 'custom-call':
        return _kernel(where, instruction)
    if opcode in ('fusion', 'async-start') and 'calls' in instruction.called:
        inner = program.computations[instruction.called['calls']]
        return sum(flops_of(program, inner, i, of) for i in inner.instructions.values())
    return 0.0


def _dot(where: Computation, dot: Instruction) -> float:
    left = _shape(where, dot.operands[0])
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', dot.attributes)
    contracted = [left.dims[int(i)] for i in found[1].split(',') if i] if found else []
    return 2.0 * math.prod(dot.shapes[0].dims) * math.prod(contracted)


def _convolution(where: Computation, product: Instruction) -> float:
    """Products of numbers that are there: XLA pads where it writes a product as a convolution."""
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', product.attributes)
    left, right = (_shape(where, name) for name in product.operands[:2])
    out = product.shapes[0]
    rows = out.dims[labels[3].index('b')] * out.dims[labels[3].index('f')]
    each = right.dims[labels[2].index('i')]  # of one group of features already
    taps = 1
    for number in sorted(set(re.findall(r'\d', labels[1]))):
        axis = int(number)
        taps *= _taps(
            left.dims[labels[1].index(number)],
            right.dims[labels[2].index(number)],
            out.dims[labels[3].index(number)],
            {key: _window(product.attributes, key, axis) for key in _WINDOW},
        )
    return 2.0 * rows * each * taps


_WINDOW = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}


def _taps(size: int, window: int, out: int, how: dict[str, int]) -> int:
    """How many pairs of an output's place and a window's meet an input."""
    places = np.arange(out)[:, None] * how['stride'] - how['pad']
    at = places + np.arange(window) * how['rhs_dilate']
    reach = (size - 1) * how['lhs_dilate']
    return int(np.sum((at >= 0) & (at <= reach) & (at % how['lhs_dilate'] == 0)))


def _window(attributes: str, key: str, axis: int) -> int:
    window = re.search(r'window=\{([^}]*)\}', attributes)
    found = re.search(rf'\b{key}=([\dx_\-]+)', window[1]) if window else None
    if not found:
        return _WINDOW[key]
    return int(found[1].split('x')[axis].split('_')[0])


def _kernel(where: Computation, call: Instruction) -> float:
    """Of attention's kernel on a TPU, the products of blocks that its grid visits; of groups of
    rows with a matrix each, what a group needs.
    """
    if call.name.startswith('ragged-dot') and 'metadata' not in call.name:
        rows = _shape(where, call.operands[-2])  # then the matrices, or other rows
        return 2.0 * math.prod(rows.dims) * call.shapes[0].dims[-1]
    times = next((n for name, n in _SPLASH if name in call.name), 0)
    if not times:
        return 0.0
    shapes = [_shape(where, name) for name in call.operands]
    # Queries and keys come first, (…, heads, length, head_dim), after tables of blocks.
    q, k = [s.dims for s in shapes if s.dtype in ('bf16', 'f32') and len(s.dims) > 2][:2]
    return 2.0 * times * math.prod(q) * k[-2] * _visited(shapes)


def _visited(shapes: list[Shape]) -> float:
    """The share of blocks: the table of blocks is square where a causal mask leaves out half."""
    grids = [s.dims for s in shapes if s.dtype == 's8']
    if not grids:
        return 1.0
    rows, columns = grids[0][-2:]
    return (rows + 1) / (2 * rows) if rows == columns else 1.0


def _shape(where: Computation, name: str) -> Shape:
    return where.instructions[name].shapes[0]
