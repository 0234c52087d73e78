"""Two tasks in one step: a label for each row that has one, and the next token of all rows."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bigmodel.errors import UserError, nearest
from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import NOT_NEGATIVE, make, parse
from bigmodel.tasks.causal_lm import CausalLM
from bigmodel.tasks.classification import Classification
from bigmodel.tasks.losses import Predictions
from bigmodel.tasks.recorded import Recorded
from bigmodel.tasks.regression import Regression
from bigmodel.tasks.task import Batch, Judged, ModelFn, RowTask, Task

# What can share a forward pass: tasks that show the model a row as it is.
OF_ROWS = {'classification': Classification, 'regression': Regression}
OF_TOKENS = {'causal_lm': CausalLM}


@dataclasses.dataclass(frozen=True)
class Joint(RowTask):
    """Learns `first` of rows with a label and, as an auxiliary objective, `second` of all rows, in
    one forward pass of a model with the head `joint` (Radford et al. 2018, §3.2).

    The loss of a row is that of `first`, nothing where it has no label, plus `weight` times that of
    `second` summed over its tokens, divided by the tokens that a row has room for. The mean is over
    all rows. So it is a sum over rows with a divisor that no label moves: it does not depend on how
    a batch is cut into microbatches or over devices, which a mean of each task over what counts for
    it would, and rows with a label weigh as much as there are of them (a mixture says how many).
    Metrics: `loss`, and the two tasks' own with their names: `classification_accuracy`,
    `causal_lm_nll`.
    """

    first: str = 'classification'
    second: str = 'causal_lm'
    weight: Annotated[float, NOT_NEGATIVE] = 0.5
    causal = True
    whole_text = True

    def __post_init__(self) -> None:
        if not set(self.of_rows.reads) & set(self.of_tokens.reads):
            raise ValueError(f'{self.first} does not read tokens, which {self.second} predicts')

    @property
    def of_rows(self) -> Task:
        """The first task."""
        return _part(OF_ROWS, self.first, 'first')

    @property
    def of_tokens(self) -> CausalLM:
        """The second task."""
        return _part(OF_TOKENS, self.second, 'second')

    @property
    def heads(self) -> tuple[str, ...]:
        return self.of_rows.predicts, self.of_tokens.predicts

    @property
    def predicts(self) -> str:
        """What is predicted for each row."""
        return self.of_rows.predicts

    @property
    def learns(self) -> str:
        return self.of_rows.learns

    @property
    def labelled(self) -> bool:
        return self.of_rows.labelled

    @property
    def skips_unlabelled(self) -> bool:
        return self.of_rows.skips_unlabelled

    @property
    def learns_unlabelled(self) -> bool:
        return self.skips_unlabelled

    @property
    def extra_tokens(self) -> int:
        return self.of_tokens.extra_tokens

    @property
    def text_nll(self) -> str:
        return f'{parse(self.second).name}_nll'

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        once, shown = Recorded(model), self.shown(batch)
        ours, rows = self.of_rows.judge(_output(once, 0), shown, dropout_key)
        once.again()
        theirs = self.of_tokens(_output(once, 1), batch, dropout_key)
        num_rows, length = shown['tokens'].shape
        total = ours['loss'].total + self.weight * theirs['loss'].total / length
        valid = batch.get('valid', jnp.ones(num_rows, jnp.float32))
        named = _named(self.first, ours) | _named(self.second, theirs)
        return {'loss': Mean(total, jnp.sum(valid)), **named}, rows

    def shown(self, batch: Batch) -> dict[str, Array]:
        """The batch without the last tokens, which `second` predicts and the model does not see."""
        length = batch['tokens'].shape[1] - self.extra_tokens
        return {k: v[:, :length] if v.ndim > 1 else v for k, v in batch.items()}

    def by_token(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Predictions:
        """The predictions of `second`."""
        return self.of_tokens.by_token(_output(model, 1), batch, dropout_key)


def _output(model: ModelFn, number: int) -> ModelFn:
    """The model as one task sees it, which is given the outputs of its own head."""
    return lambda *args, **kwargs: model(*args, **kwargs)[number]


def _named(spec: str, metrics: Metrics) -> Metrics:
    return {f'{parse(spec).name}_{metric}': mean for metric, mean in metrics.items()}


def _part(table: Mapping[str, Any], spec: str, argument: str) -> Any:
    what = f'task: joint({argument}=...)'
    name = parse(spec, what).name
    if name not in table:
        raise UserError(
            f'{what}: {name!r} is none of {", ".join(table)}, which read the same rows in one '
            f'pass of the model; other tasks change what it reads.{nearest(name, table)}'
        )
    return make(table, spec, what)
