"""A model that is computed once for several readings of the same batch."""

from typing import Any

from bigmodel.models.heads import Outputs
from bigmodel.tasks.task import BoundModel, ModelFn


class Recorded:
    """A ModelFn whose n-th call after `again` gives what its n-th call gave before.

    For readers that give it the same inputs each time.
    """

    def __init__(self, model: ModelFn) -> None:
        self._model, self._outputs, self._next = model, [], 0

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        if self._next == len(self._outputs):
            self._outputs.append(self._model(*args, **kwargs))
        self._next += 1
        return self._outputs[self._next - 1]

    def again(self) -> None:
        """Begins another reading."""
        self._next = 0


class Recording:
    """`bound` is `model` with its companions, all of them recorded."""

    def __init__(self, model: BoundModel) -> None:
        companions = {name: Recorded(c) for name, c in model.companions.items()}
        self.bound = BoundModel(Recorded(model.model), companions)

    def again(self) -> None:
        """Begins another reading of all."""
        for recorded in (self.bound.model, *self.bound.companions.values()):
            recorded.again()
