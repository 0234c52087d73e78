"""Where a report's runs come from."""

from collections.abc import Callable, Mapping
from typing import Any

from bigmodel.reports.gathered import Gathered


def _commit(facts: Mapping[str, Any]) -> str:
    git = facts.get('git') or {}
    return f'{git.get("commit", "unknown")}{" with uncommitted changes" * bool(git.get("dirty"))}'


def _versions(facts: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {version}' for name, version in facts.get('versions', {}).items())


_READ: dict[str, Callable[[Mapping[str, Any]], str]] = {
    'commit': _commit,
    'versions': _versions,
    'devices': lambda facts: str(facts.get('devices', 'unknown')),
    'attention kernel': lambda facts: str(facts.get('kernel', 'unknown')),
    'data fingerprint': lambda facts: str(facts.get('data_fingerprint', 'unknown')),
}


def provenance(found: Gathered) -> list[tuple[str, str]]:
    """(what, value) of the runs that have begun, with their counts where they are not all alike."""
    begun = [run.facts for run in found.runs if 'versions' in run.facts]
    lines = []
    for what, read in _READ.items() if begun else ():
        values = [read(facts) for facts in begun]
        for value in dict.fromkeys(values):
            count = values.count(value)
            few = '' if count == len(values) else f'({count} of {len(values)} runs) '
            lines.append((what, f'{few}{value}'))
    return lines
