"""Mixtures of experts: each token goes through a few of many feed-forward layers."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.layers.dropout import Dropout
from bigmodel.layers.feedforward import FeedForward, Gated, activation, gated_hidden
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import ExpertLinear, Linear
from bigmodel.layers.losses import add_loss
from bigmodel.specs import NOT_NEGATIVE, POSITIVE


class MoE(FeedForward):
    """Σ g_e·FFN_e(x) over the `top_k` experts of largest softmax(W_r·x) (Shazeer et al. 2017).

    Experts are gated FFNs. The gates g are the softmax over the chosen experts (Jiang et al. 2024);
    for one expert, its probability among all, so that the router learns (Fedus et al. 2021). No
    token is dropped, so a token's output depends on no other token. `hidden` 0 makes the experts
    of a token, shared ones included, together as wide as `gated`, so that both cost the same.

    `shared` experts serve every token (Dai et al. 2024, DeepSeekMoE). Added to the loss, as means
    over all tokens, also padding: `balance`·E·Σ_e load_e·probability_e (Fedus et al. 2021), which
    is `balance` when balanced, and `router_z`·log²Σexp of the router's logits (Zoph et al. 2022).
    `choice_bias` above 0 adds a bias to the choice alone; its gradient is so much times the load
    minus the mean load, which moves no other weight (Wang et al. 2024; goes with `balance=0`).
    """

    activation: str = 'silu'
    experts: Annotated[int, POSITIVE] = 8
    top_k: Annotated[int, POSITIVE] = 2
    shared: Annotated[int, NOT_NEGATIVE] = 0
    hidden: Annotated[int, NOT_NEGATIVE] = 0
    balance: Annotated[float, NOT_NEGATIVE] = 0.01
    router_z: Annotated[float, NOT_NEGATIVE] = 0.001
    choice_bias: Annotated[float, NOT_NEGATIVE] = 0.0
    dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def refusal(self) -> str:
        """Why its own fields cannot work together."""
        if self.top_k > self.experts:
            return f'needs top_k={self.top_k} experts for a token, but experts={self.experts}'
        return super().refusal()

    def active_share(self) -> float:
        """The share of its experts' weights that one token is multiplied with."""
        return self.top_k / self.experts

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
        width = x_BLD.shape[-1]
        each = -(-gated_hidden(width) // (self.top_k + self.shared))
        hidden = self.hidden or -(-each // 8) * 8
        choice_BLC, gate_BLC = self._route(x_BLD)
        # Rows of one token for each of its choices, sorted by expert.
        choice_N = choice_BLC.reshape(-1)
        order_N = jnp.argsort(choice_N, stable=True)
        sizes_E = jnp.bincount(choice_N, length=self.experts)
        rows_ND = _permuted(jnp.repeat(x_BLD.reshape(-1, width), self.top_k, 0), order_N)
        y_ND = _permuted(self._experts(rows_ND, sizes_E, hidden), jnp.argsort(order_N))
        y_BLCD = y_ND.reshape(*choice_BLC.shape, width).astype(jnp.float32)
        y_BLD = jnp.einsum('blcd,blc->bld', y_BLCD, gate_BLC).astype(self.dtype)
        if self.shared:
            shared = (self.activation, self.shared * hidden, False, 0.0, self.init, self.dtype)
            y_BLD = y_BLD + Gated(*shared, name='shared')(x_BLD)
        return Dropout(self.dropout)(y_BLD)

    def _experts(
        self, x_ND: Float[Array, 'N D'], sizes_E: Int[Array, ' E'], hidden: int
    ) -> Float[Array, 'N D']:
        """Every expert's gated FFN on its own rows."""
        rest = (self.init, self.dtype)
        into = (self.experts, hidden, ('embed', 'mlp'), 'linear', *rest)
        back = (self.experts, x_ND.shape[-1], ('mlp', 'embed'), 'residual', *rest)
        gate_NF = activation(self.activation)(ExpertLinear(*into, name='gate')(x_ND, sizes_E))
        h_NF = gate_NF * ExpertLinear(*into, name='in')(x_ND, sizes_E)
        return ExpertLinear(*back, name='out')(h_NF, sizes_E)

    def _route(
        self, x_BLD: Float[Array, 'B L D']
    ) -> tuple[Int[Array, 'B L C'], Float[Array, 'B L C']]:
        """The experts of each token and their gates, float32; adds what the router costs."""
        # In float32: bfloat16's rounding swaps experts (Fedus et al. 2021, §2.4).
        router = Linear((self.experts,), ('embed',), ('experts',), init=self.init, name='router')
        logits_BLE = router(x_BLD.astype(jnp.float32))
        probability_BLE = jax.nn.softmax(logits_BLE, -1)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('experts',))
        score_BLE, bias_E = probability_BLE, None
        if self.choice_bias:
            bias_E = self.param('choice_bias', zeros, (self.experts,))
            score_BLE = score_BLE + bias_E
        choice_BLC = jax.lax.top_k(score_BLE, self.top_k)[1]
        gate_BLC = jnp.take_along_axis(probability_BLE, choice_BLC, -1)
        if self.top_k > 1:
            gate_BLC = gate_BLC / jnp.sum(gate_BLC, -1, keepdims=True)
        load_E = jnp.mean(jax.nn.one_hot(choice_BLC, self.experts), (0, 1, 2))
        share_E = jnp.mean(probability_BLE, (0, 1))
        z = jnp.mean(jax.nn.logsumexp(logits_BLE, -1) ** 2)
        if self.balance:
            add_loss(self, 'balance', self.balance * self.experts * jnp.sum(load_E * share_E))
        if self.router_z:
            add_loss(self, 'router_z', self.router_z * z)
        if bias_E is not None:
            # Worth 0, with the gradient that the bias is to have.
            excess_E = self.choice_bias * (load_E - 1 / self.experts)
            pull_E = bias_E - jax.lax.stop_gradient(bias_E)
            add_loss(self, 'choice_bias', jnp.sum(excess_E * pull_E))
        return choice_BLC, gate_BLC


def _permuted(x_ND: Float[Array, 'N D'], order_N: Int[Array, ' N']) -> Float[Array, 'N D']:
    """The rows in the given order; no row twice, which makes the backward pass deterministic."""
    return x_ND.at[order_N].get(unique_indices=True, mode='promise_in_bounds')
