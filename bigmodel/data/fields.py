"""Fields of an example by name: 'a.b' is field b of field a."""

from collections.abc import Mapping
from typing import Any

from bigmodel.errors import UserError, nearest


def lookup(row: Mapping[str, Any], field: str, place: str) -> Any:
    """The value of a field; UserError, which begins with `place`, when there is none."""
    value: Any = row
    for name in field.split('.'):
        if not isinstance(value, Mapping) or name not in value:
            there = sorted(value) if isinstance(value, Mapping) else []
            raise UserError(
                f'{place}: no field {field!r}.{nearest(name, there)} '
                f'Fields there: {", ".join(there) or "none"}'
            )
        value = value[name]
    return value
