"""What a model predicts beside the next token while it trains: tokens further ahead."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Context
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.inputs import Inputs
from bigmodel.layers.linear import Linear
from bigmodel.layers.losses import LOSSES, add_loss
from bigmodel.models.deferred import Logits, per_token
from bigmodel.specs import POSITIVE

Unembed = Callable[[Float[Array, 'B L D']], Logits]


class NextOnly(nn.Module):
    """The next token only."""

    def __call__(
        self, x_BLD: Array, tokens_BL: Array, context: Context, inputs: Inputs, unembed: Unembed
    ) -> None:
        """Adds nothing to the loss."""


class MultiToken(nn.Module):
    """Predicts `tokens` more tokens, each by a layer of its own that also reads the embedding of
    the token before; their mean loss counts `weight` (DeepSeek-AI 2024, DeepSeek-V3, §2.2).

    The layers are like the model's last one and share its inputs and its head. They are computed
    only where losses are collected: generation does without them. What a batch says of its tokens'
    weights does not reach them.
    """

    block: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    tokens: Annotated[int, POSITIVE] = 1
    weight: Annotated[float, POSITIVE] = 0.3
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        tokens_BL: Int[Array, 'B L'],
        context: Context,
        inputs: Inputs,
        unembed: Unembed,
    ) -> None:
        """Adds the loss `ahead`; x is the backbone's output."""
        if not (self.is_mutable_collection(LOSSES) or self.is_initializing()):
            return
        for k in range(1, self.tokens + 1):
            known_BLD = self.norm(name=f'embed_norm_{k}')(inputs(jnp.roll(tokens_BL, -k, 1))[0])
            both = jnp.concatenate([x_BLD, known_BLD.astype(x_BLD.dtype)], -1)
            rest = (False, 'linear', self.init, self.dtype)
            x_BLD = Linear((x_BLD.shape[-1],), ('features',), ('embed',), *rest, name=f'join_{k}')(
                both
            )
            x_BLD = self.norm(name=f'norm_{k}')(self.block(name=f'block_{k}')(x_BLD, context))
            loss = _mean_loss(unembed(x_BLD), tokens_BL, context, k + 1)
            add_loss(self, 'ahead', self.weight / self.tokens * loss)


def _mean_loss(
    logits_BLV: Logits, tokens_BL: Int[Array, 'B L'], context: Context, ahead: int
) -> Float[Array, '']:
    """Nats a token, of those `ahead` places later in the same document of the row."""
    there_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]) + ahead, tokens_BL.shape)
    counts_BL = there_BL < tokens_BL.shape[1]
    if (segments := context.queries.segment) is not None:
        counts_BL &= (segments == jnp.roll(segments, -ahead, 1)) & (segments > 0)
    nll_BL = per_token(_nll, logits_BLV, jnp.roll(tokens_BL, -ahead, 1))
    return jnp.sum(nll_BL * counts_BL) / jnp.maximum(jnp.sum(counts_BL), 1)


def _nll(logits: Float[Array, '*s V'], targets: Int[Array, '*s']) -> Float[Array, '*s']:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]


AHEADS = {'none': NextOnly, 'mtp': MultiToken}
