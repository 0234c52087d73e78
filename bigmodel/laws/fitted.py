"""scaling.json read back: nothing here needs scipy, so that `size` answers at once."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from bigmodel.errors import UserError
from bigmodel.laws.law import Law, from_json

COEFFICIENTS = ('E', 'A', 'B', 'alpha', 'beta')


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A law of a scaling.json, or a published one, which has no draws."""

    law: Law
    draws: tuple[Law, ...] = ()
    vocab_size: int = 0


def read(path: pathlib.Path) -> Fitted:
    """A scaling.json; raises UserError for anything else."""
    try:
        plain = json.loads(path.read_text())
        law = from_json(plain['law'])
        draws = [dict(zip(COEFFICIENTS, draw, strict=True)) for draw in plain['draws']]
        return Fitted(law, tuple(_draws(law, draws)), int(plain['vocab_size']))
    except OSError as e:
        raise UserError(f'--fit={path} cannot be read: {e.strerror}') from e
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f'--fit={path} is no scaling.json as `scaling` writes it: {e}') from e


def _draws(law: Law, draws: Sequence[Mapping[str, float]]) -> list[Law]:
    """Those in which the loss falls with both: the others have no optimum."""
    made = [dataclasses.replace(law, **draw) for draw in draws]
    return [draw for draw in made if draw.alpha > 0 and draw.beta > 0]
