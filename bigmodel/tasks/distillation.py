"""Next-token prediction with a teacher."""

import dataclasses
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.metrics import Mean, Metrics
from bigmodel.models.deferred import per_token
from bigmodel.specs import FRACTION, POSITIVE
from bigmodel.tasks.causal_lm import CausalLM, next_tokens
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, BoundModel, ModelFn, Task


@dataclasses.dataclass(frozen=True)
class Distillation(Task):
    """Predicts the next token, and what a frozen teacher says of it: T²·KL(teacher‖student) of
    distributions at temperature T, mixed with the loss of `causal_lm` (Hinton et al. 2015, §2).

    The loss is (1−weight)·nll + weight·divergence. Metrics, a token: `loss`, `nll`, `divergence`
    (nats, with the factor T²), `accuracy`.
    """

    weight: Annotated[float, FRACTION] = 0.5
    temperature: Annotated[float, POSITIVE] = 2.0
    extra_tokens = 1
    causal = True
    whole_text = True
    companions = ('teacher',)

    def __call__(self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        inputs, targets, weights = next_tokens(batch)
        logits = model(*inputs, dropout_key)
        each = Predictions(*cross_entropy(logits, targets), weights)
        theirs = model.companion('teacher')(*inputs, None)
        far = per_token(partial(divergence, temperature=self.temperature), theirs, logits)
        loss = (1 - self.weight) * each.nll + self.weight * far
        return each._replace(loss=loss).metrics() | {'divergence': Mean.of(far, weights)}

    def by_token(self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Predictions:
        """The predictions of the model alone, as `causal_lm` has them."""
        return CausalLM().by_token(model, batch, dropout_key)


def divergence(
    teacher: Float[Array, '*s V'], student: Float[Array, '*s V'], temperature: float
) -> Float[Array, '*s']:
    """T²·KL(teacher‖student), nats, float32, of logits that are divided by the temperature T.

    T² keeps gradients as large as those of the labels' loss (Hinton et al. 2015, §2).
    """
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature, -1) for x in (teacher, student)
    )
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
