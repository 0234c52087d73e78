"""Short names of arms, from what differs between them; they are names of directories too."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel.errors import UserError

LONGEST = 60


def arm_names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each arm: its own ('name'), else the values of the keys that differ.

    Raises UserError when two arms have one name.
    """
    changes = [{k: v for k, v in arm.items() if k != 'name'} for arm in arms]
    keys = list(dict.fromkeys(key for arm in changes for key in arm))
    varying = [key for key in keys if len({_text(arm, key) for arm in changes}) > 1]
    labels = _labels(varying or keys)
    names = [
        _safe(str(arm['name'])) if 'name' in arm else _name(change, labels)
        for arm, change in zip(arms, changes, strict=True)
    ]
    for i, name in enumerate(names):
        first = names.index(name)
        if first < i:
            raise UserError(
                f'arms {first + 1} and {i + 1} are both named {name!r} ({changes[first]} and '
                f"{changes[i]}); give one of them another 'name'"
            )
    return names


def _text(arm: Mapping[str, Any], key: str) -> str:
    return repr(arm[key]) if key in arm else ''


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each key that no other key has; '' of the only key."""
    if len(keys) == 1:
        return {keys[0]: ''}
    labels = {}
    for key in keys:
        parts = key.split('.')
        ends = ['.'.join(parts[-n:]) for n in range(1, len(parts) + 1)]
        labels[key] = next(
            (e for e in ends if sum(f'.{k}'.endswith(f'.{e}') for k in keys) == 1), key
        )
    return labels


def _name(arm: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """'rope' where one key of strings differs, else 'learning_rate=0.01,position=rope'."""
    parts = []
    for key, value in arm.items():
        if key in labels:
            label = labels[key] or ('' if isinstance(value, str) else key.split('.')[-1])
            parts.append(f'{label}={value}' if label else str(value))
    return _safe(','.join(parts) or 'base')


def _safe(text: str) -> str:
    """`text` as one directory's name: what a shell would read otherwise becomes '-'."""
    name = re.sub(r'[^\w.,=+-]+', '-', text).strip('-.') or 'unnamed'
    if len(name) <= LONGEST:
        return name
    return f'{name[: LONGEST - 7]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}'
