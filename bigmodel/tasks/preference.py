"""Learning from pairs of responses, of which people prefer one."""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.metrics import Mean, Metrics
from bigmodel.specs import NOT_NEGATIVE, POSITIVE
from bigmodel.tasks.causal_lm import next_tokens
from bigmodel.tasks.losses import cross_entropy
from bigmodel.tasks.task import Batch, BoundModel, ModelFn, Task, documents_of


class Likelihoods(NamedTuple):
    """log p of the chosen and of the rejected response, and how many tokens each has."""

    log_p_N2: Float[Array, 'N 2']
    tokens_N2: Float[Array, 'N 2']


class Preference(Task):
    """Base of tasks that compare rewards of two responses to a prompt, the chosen one first.

    Tokens with mark 1 are a response's; a pair of which one has none left does not count.
    Metrics: `loss` (nats a pair), `accuracy` (how often the chosen one has the larger reward),
    `margin` (by how much).
    """

    extra_tokens = 1
    group = 2
    learns = 'preference'
    causal = True
    gamma = 0.0

    def rewards(
        self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Float[Array, 'N 2'], Float[Array, 'N 2']]:
        """The reward of each response, and how many tokens it has."""
        raise NotImplementedError

    def __call__(self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        rewards_N2, tokens_N2 = self.rewards(model, batch, dropout_key)
        weight = (tokens_N2 > 0).all(1).astype(jnp.float32)
        if 'valid' in batch:
            weight *= batch['valid']
        margin = rewards_N2[:, 0] - rewards_N2[:, 1]
        return {
            'loss': Mean.of(-jax.nn.log_sigmoid(margin - self.gamma), weight),
            'accuracy': Mean.of((margin > 0).astype(jnp.float32), weight),
            'margin': Mean.of(margin, weight),
        }


@dataclasses.dataclass(frozen=True)
class DPO(Preference):
    """Direct preference optimisation: the reward is β·log(p/p_reference), where a frozen reference
    is the model at the start (Rafailov et al. 2023, eq. 7).

    Metrics: `loss` (nats a pair), `accuracy` (the chosen reward is larger), `margin` (by how much).
    """

    beta: Annotated[float, POSITIVE] = 0.1
    companions = ('reference',)

    def rewards(
        self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Float[Array, 'N 2'], Float[Array, 'N 2']]:
        ours = likelihoods(model, batch, dropout_key)
        theirs = likelihoods(model.companion('reference'), batch, None)
        return self.beta * (ours.log_p_N2 - theirs.log_p_N2), ours.tokens_N2


@dataclasses.dataclass(frozen=True)
class SimPO(Preference):
    """Preference without a reference: the reward is β·log p a token, and the chosen one's must be
    larger by `gamma` (Meng et al. 2024, eq. 6).

    Metrics: `loss` (nats a pair), `accuracy` (the chosen reward is larger), `margin` (by how much).
    """

    beta: Annotated[float, POSITIVE] = 2.0
    gamma: Annotated[float, NOT_NEGATIVE] = 0.5

    def rewards(
        self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Float[Array, 'N 2'], Float[Array, 'N 2']]:
        log_p_N2, tokens_N2 = likelihoods(model, batch, dropout_key)
        return self.beta * log_p_N2 / jnp.maximum(tokens_N2, 1), tokens_N2


def likelihoods(model: ModelFn, batch: Batch, dropout_key: jax.Array | None) -> Likelihoods:
    """Of the responses of N pairs, given their prompts."""
    pairs = batch['tokens'].shape[:2]
    rows = documents_of(batch)
    inputs, targets, weights = next_tokens(rows)
    response = weights * (rows['marks'][:, 1:] == 1)
    _, nll, _ = cross_entropy(model(*inputs, dropout_key), targets)
    log_p, tokens = jnp.sum(-nll * response, 1), jnp.sum(response, 1)
    return Likelihoods(log_p.reshape(pairs), tokens.reshape(pairs))
