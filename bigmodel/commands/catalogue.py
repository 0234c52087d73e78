"""Every slot of a config with its table: what `launch.py parts` shows."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from bigmodel.models.backbone import SHARE
from bigmodel.models.build import SLOTS
from bigmodel.models.presets import PRESETS
from bigmodel.rules import PRESETS as RULES
from bigmodel.specs import arguments
from bigmodel.training.slots import GIVEN, TABLES


@dataclasses.dataclass(frozen=True)
class Slot:
    """A slot: the config's key, its table, and how an entry is described where it is no part."""

    key: str
    table: Mapping[str, Any]
    describe: Callable[[Any], str] | None = None

    @property
    def name(self) -> str:
        """'position' of 'model.position'; 'optimizer' of 'optimizer.name'."""
        return self.key.removesuffix('.name').rpartition('.')[2]

    def arguments(self, part: str) -> dict[str, inspect.Parameter]:
        """The arguments of a part that a spec may set."""
        if self.describe:
            return {}
        given = GIVEN[self.key]
        return {k: p for k, p in arguments(self.table[part]).items() if k not in given}

    def signature(self, part: str) -> str:
        """The part as a spec is written, every argument with its default."""
        listed = [
            name if p.default is p.empty else f'{name}={p.default!r}'
            for name, p in self.arguments(part).items()
        ]
        return f'{part}({", ".join(listed)})' if listed else part

    def text(self, part: str) -> str:
        """All that is written of a part: its docstring."""
        entry = self.table[part]
        return self.describe(entry) if self.describe else docstring(entry)

    def line(self, part: str) -> str:
        """What a part is in a sentence, or in as many as it takes to name its paper."""
        return summary(self.text(part))


def slots() -> dict[str, Slot]:
    """The slots by name, those of the model first."""
    found = [Slot(key, table) for key, table in TABLES.items()]
    found += [
        Slot('activation', SLOTS['activation'], lambda _: ''),  # an argument of FFNs
        Slot('weights', SLOTS['weights']),  # an argument of attention
        Slot('model.share', SHARE, _share),
        Slot('model.size', PRESETS, _preset),
        Slot('sharding.rules', RULES, _rules),
    ]
    return {slot.name: slot for slot in found}


def docstring(part: Any) -> str:
    """A part's own docstring, cleaned; '' where it has none."""
    while isinstance(part, functools.partial):
        part = part.func
    own = part.__dict__.get('__doc__') if isinstance(part, type) else part.__doc__
    # Dataclasses without one get their signature for a docstring.
    return '' if not own or own.startswith(f'{part.__name__}(') else inspect.cleandoc(own)


def summary(text: str) -> str:
    """The first sentence of a docstring, and those after it up to the first that cites a year."""
    # 'et al. 2021' goes on with a digit, so it ends no sentence.
    sentences = re.split(r'(?<=\.)\s+(?=[A-Z`(])', ' '.join(text.split()))
    cites = [i for i, s in enumerate(sentences) if re.search(r'\b(19|20)\d\d\b', s)]
    return ' '.join(sentences[: cites[0] + 1 if cites else 1])


def _share(scan: Mapping[str, Any]) -> str:
    if 'variable_broadcast' in scan:
        return 'Repetitions of the pattern share their parameters (Lan et al. 2019, ALBERT).'
    return 'Every layer has parameters of its own.'


def _preset(row: Mapping[str, Any]) -> str:
    shape = f'{row["depth"]} layers of width {row["width"]}, {row["num_heads"]} heads'
    rest = {k: v for k, v in row.items() if k not in ('depth', 'width', 'num_heads')}
    return ', '.join([shape, *(f'{k} {v}' for k, v in rest.items())])


def _rules(rules: Mapping[str, Any]) -> str:
    places: dict[str, list[str]] = {}
    for axis, mesh in rules.items():
        if mesh:
            places.setdefault(mesh if isinstance(mesh, str) else '×'.join(mesh), []).append(axis)
    return '; '.join(f'{", ".join(axes)} over {mesh}' for mesh, axes in places.items())
