"""What XLA says when memory does not suffice: capacities, and lists of the largest buffers."""

import re

from bigmodel.planning.buffers import Buffer, layer_of, merged
from bigmodel.planning.sources import Sources

_UNITS = {'': 0, 'K': 10, 'M': 20, 'G': 30, 'T': 40}
_SIZE = r'([\d.]+) ?([KMGT]?)(?:i?B)?'
# '  1. Size: 2.00G' of a TPU's compiler, 'Buffer 1:\n Size: 6.00MiB' of a GPU's run.
_BUFFER = re.compile(rf'(?:\d+\. |Buffer \d+:\s+)Size: {_SIZE}\n(.*?)(?:={{5,}}|\Z)', re.DOTALL)
_SHAPE = re.compile(r'(?:Shape|Entry Parameter Subshape): (\w+\[[\d,]*\])')
_CAPACITY = (
    re.compile(rf'Used {_SIZE} of {_SIZE} hbm'),
    re.compile(rf'\({_SIZE}\) exceeds available HBM \({_SIZE}\)'),
)


def used_and_there(said: str) -> tuple[int, int] | None:
    """The bytes of a program and of the memory of a device, where a compiler compares them."""
    for pattern in _CAPACITY:
        if found := pattern.search(said):
            used, unit, there, of = found.groups()
            return _bytes(used, unit), _bytes(there, of)
    return None


def buffers_in(said: str) -> list[Buffer]:
    """The buffers that a message lists, the largest first, those that are alike as one."""
    found = []
    for number, unit, text in _BUFFER.findall(said):
        shape = _SHAPE.search(text)
        name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', text)
        layer, phase = layer_of(name[1]) if name else ('', '')
        if 'Entry Parameter' in text:
            phase = 'argument'
        kind = shape[1] if shape else ''
        found.append(Buffer(kind, _bytes(number, unit), layer, phase, Sources().of(text)))
    return merged(found)


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * 2 ** _UNITS[unit])
