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
    labels = _labels(varying or keys, changes)
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


def trial_name(number: int, values: Mapping[str, Any]) -> str:
    """Of an arm of a search: '007,learning_rate=0.01,rope'."""
    return _safe(f'{number:03},{_name(values, _labels(list(values), [values]))}')


def _text(arm: Mapping[str, Any], key: str) -> str:
    return repr(arm[key]) if key in arm else ''


def _labels(keys: Sequence[str], arms: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The shortest end of each key that no other key has; '' where the values say it alone."""
    values = {key: {arm[key] for arm in arms if isinstance(arm.get(key), str)} for key in keys}
    labels = {}
    for key in keys:
        others = set().union(*(values[k] for k in keys if k != key))
        if all(isinstance(arm.get(key, ''), str) for arm in arms) and not values[key] & others:
            labels[key] = ''
            continue
        parts = key.split('.')
        ends = ['.'.join(parts[-n:]) for n in range(1, len(parts) + 1)]
        labels[key] = next(e for e in ends if sum(f'.{k}'.endswith(f'.{e}') for k in keys) == 1)
    return labels


def _name(arm: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """'rope', 'learning_rate=0.01', 'rope,learning_rate=0.01'."""
    parts = [
        f'{labels[key]}={value}' if labels[key] else str(value)
        for key, value in arm.items()
        if key in labels
    ]
    return _safe(','.join(parts) or 'base')


def _safe(text: str) -> str:
    """`text` as one directory's name: what a shell would read otherwise becomes '-'."""
    name = re.sub(r'[^\w.,=+-]+', '-', text).strip('-.') or 'unnamed'
    if len(name) <= LONGEST:
        return name
    return f'{name[: LONGEST - 7]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}'
