"""`parts`: every slot, its choices and their arguments, read from the tables and docstrings."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bigmodel.errors import UserError, nearest
from bigmodel.specs import describe

if TYPE_CHECKING:  # the tables need JAX, `--help` does not
    from bigmodel.commands.catalogue import Slot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show."""
    parser.add_argument('name', nargs='?', default='', help='a slot or a part; default: all slots')


def run(args: argparse.Namespace) -> int:
    """Prints all slots, one slot, or one part in full."""
    from bigmodel.commands.catalogue import slots

    found = slots()
    if not args.name:
        print('\n\n'.join('\n'.join(slot_lines(slot)) for slot in found.values()))
        print('\nlaunch.py parts NAME shows one slot, or one part in full.')
        return 0
    texts = [
        *(slot_lines(s) for s in found.values() if args.name in (s.name, s.key)),
        *(part_lines(s, args.name) for s in found.values() if args.name in s.table),
    ]
    if not texts:
        names = [*found, *(part for slot in found.values() for part in slot.table)]
        raise UserError(
            f'unknown slot or part {args.name!r}.{nearest(args.name, names)} '
            f'Slots: {", ".join(found)}'
        )
    print('\n\n'.join('\n'.join(lines) for lines in texts))
    return 0


def slot_lines(slot: 'Slot') -> Iterator[str]:
    """A slot's name and key, then a line for each choice."""
    if not any(slot.text(part) for part in slot.table):  # names that speak for themselves
        yield f'{slot.name}: {", ".join(slot.table)}'
        return
    yield f'{slot.name}  --config.{slot.key}'
    for part in slot.table:
        yield f'  {slot.signature(part)}  {slot.line(part)}'.rstrip()


def part_lines(slot: 'Slot', part: str) -> Iterator[str]:
    """A part in full: its spec, its docstring, its arguments with types, ranges and defaults."""
    yield f'{slot.name}: {slot.signature(part)}'
    yield from (f'  {line}'.rstrip() for line in slot.text(part).splitlines())
    for name, parameter in slot.arguments(part).items():
        required = parameter.default is parameter.empty
        default = 'required' if required else f'default {parameter.default!r}'
        yield f'    {name}: {describe(parameter)}; {default}'
