"""The line of source that an instruction of a compiled program comes from."""

import pathlib
import re

_PACKAGE = f'/{pathlib.Path(__file__).parents[1].name}/'
_TABLES = ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames')
_PLAIN = re.compile(r'source_file="([^"]*)"(?: source_line=(\d+))?')
_FRAME = re.compile(r'stack_frame_id=(\d+)')


class Sources:
    """Of the text of one program, at the head of which newer versions of XLA write call stacks."""

    def __init__(self, text: str = '') -> None:
        self._tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        table: dict[int, str] = {}
        for line in text.splitlines():
            if line in _TABLES:
                table = self._tables[line]
            elif found := re.match(r'(\d+) (.*)$', line):
                table[int(found[1])] = found[2]
            elif line.startswith(('ENTRY', '%')):
                break

    def of(self, attributes: str) -> str:
        """'bigmodel/layers/reference.py:61', the innermost line of this package on the call stack;
        '' where the program does not say.
        """
        if plain := _PLAIN.search(attributes):
            return f'{short(plain[1])}:{plain[2] or "?"}'
        frame = _FRAME.search(attributes)
        lines = self._stack(int(frame[1])) if frame else []
        own = [line for line in lines if line.startswith(_PACKAGE.lstrip('/'))]
        return next(iter(own or lines), '')

    def _stack(self, frame: int) -> list[str]:
        """The lines of a call stack, the innermost first."""
        lines: list[str] = []
        while frame in self._tables['StackFrames']:
            here = self._numbers('StackFrames', frame)
            place = self._numbers('FileLocations', here['file_location_id'])
            name = self._tables['FileNames'].get(place['file_name_id'], '').strip('"')
            lines.append(f'{short(name)}:{place["line"]}')
            parent = here.get('parent_frame_id', 0)
            frame = parent if parent != frame else 0  # the outermost one names itself
        return lines

    def _numbers(self, table: str, key: int) -> dict[str, int]:
        found = re.findall(r'(\w+)=(\d+)', self._tables[table].get(key, ''))
        return {'file_name_id': 0, 'file_location_id': 0, 'line': 0} | {k: int(v) for k, v in found}


def short(path: str) -> str:
    """A path from this package on, or from the installed one that it is in."""
    _, package, rest = path.rpartition(_PACKAGE)
    if package:
        return f'{package[1:]}{rest}'
    return path.rpartition('/site-packages/')[2]
