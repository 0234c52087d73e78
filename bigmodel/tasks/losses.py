"""Cross-entropy with its two usual extras, and the metrics of predictions; all tasks share them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bigmodel.layers.kernel import MASKED
from bigmodel.metrics import Mean, Metrics
from bigmodel.models.deferred import Logits, per_token


class Predictions(NamedTuple):
    """Predictions, such as one a token: nats (with extras and without), whether right, weight."""

    loss: Float[Array, '*s']
    nll: Float[Array, '*s']
    correct: Bool[Array, '*s']
    weight: Float[Array, '*s']

    def metrics(self) -> Metrics:
        """The means by which all tasks report."""
        return {
            'loss': Mean.of(self.loss, self.weight),
            'nll': Mean.of(self.nll, self.weight),
            'accuracy': Mean.of(self.correct.astype(jnp.float32), self.weight),
        }


def confidence(logits: Float[Array, '*s V']) -> Float[Array, '*s']:
    """The probability of the most likely class."""
    return jnp.exp(jnp.max(jax.nn.log_softmax(logits.astype(jnp.float32)), -1))


Each = tuple[Float[Array, '*s'], Float[Array, '*s'], Bool[Array, '*s']]


def cross_entropy(
    logits: Logits,
    targets: Int[Array, '*s'],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Each:
    """(loss, negative log-likelihood, correct) for each target, in nats, float32.

    The loss is the NLL plus `z_loss`·log²Z (Chowdhery et al. 2022, §5), with the target smoothed to
    (1−ε)·onehot + ε/V (Szegedy et al. 2016, §7), where V does not count ids that the head masks.
    """
    read = partial(_cross_entropy, label_smoothing=label_smoothing, z_loss=z_loss)
    return per_token(read, logits, targets)


def _cross_entropy(
    logits: Float[Array, '*s V'], targets: Int[Array, '*s'], label_smoothing: float, z_loss: float
) -> Each:
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - at_target
    loss = nll
    if label_smoothing:
        mean = jnp.mean(logits, -1, where=logits > MASKED / 2)
        loss = (1 - label_smoothing) * nll + label_smoothing * (log_z - mean)
    if z_loss:
        loss = loss + z_loss * log_z**2
    return loss, nll, jnp.argmax(logits, axis=-1) == targets
