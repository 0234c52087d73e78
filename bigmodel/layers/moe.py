"""Mixtures of experts: each token goes through a few of many feed-forward layers."""

import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.layers.dropout import Dropout
from bigmodel.layers.feedforward import FeedForward, Gated, activation, gated_hidden
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import ExpertWeight, Linear
from bigmodel.layers.losses import add_loss, report
from bigmodel.layers.matmuls import Full, matmul_of
from bigmodel.layers.names import named
from bigmodel.sharding import by_rows, exchange, into_branch, mean_over_rows
from bigmodel.specs import NOT_NEGATIVE, POSITIVE

Tokens = Float[Array, 'B L D']
Scores = Float[Array, 'B L E']
Where = Int[Array, 'B *c']
Gates = Float[Array, 'B *c']
EXPERTS = ('gate', 'in', 'out')
Matrices = tuple[Float[Array, 'E D F'], Float[Array, 'E D F'], Float[Array, 'E F D']]


class Mixture(FeedForward):
    """Base of all mixtures: a router, gated experts of which a token meets a few, shared ones.

    `hidden` 0 makes the experts of a token, shared ones included, together as wide as `gated`, so
    that both cost the same. `shared` experts serve every token (Dai et al. 2024, DeepSeekMoE).
    `router_z`·log²Σexp of the router's logits, as a mean over all tokens, also padding, is added to
    the loss (Zoph et al. 2022).
    """

    # The leading axes of tokens that are served together: a row, or each token by itself.
    together = ('batch',)
    # Whether tokens travel to experts on other devices; else those experts' weights come here.
    travels = True

    activation: str = 'silu'
    experts: Annotated[int, POSITIVE] = 8
    shared: Annotated[int, NOT_NEGATIVE] = 0
    hidden: Annotated[int, NOT_NEGATIVE] = 0
    router_z: Annotated[float, NOT_NEGATIVE] = 0.001
    dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    def met(self) -> float:
        """How many of the experts serve a token, in the mean."""
        raise NotImplementedError

    def active_share(self) -> float:
        """The share of its experts' weights that one token is multiplied with."""
        return self.met() / self.experts

    def route(self, probability_BLE: Scores) -> tuple[Where, Gates]:
        """Who goes where, and with which gate; adds what that costs to the loss."""
        raise NotImplementedError

    def serve(self, matrices: Matrices, x_BLD: Tokens, where: Where, gate: Gates) -> Tokens:
        """Σ gate·FFN_e(x) by what `route` found, float32; it sees the rows of one device."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x_BLD: Tokens) -> Tokens:
        width = x_BLD.shape[-1]
        each = math.ceil(gated_hidden(width) / (self.met() + self.shared))
        hidden = self.hidden or -(-each // 8) * 8
        matrices = self._matrices(width, hidden)
        parts = ('experts',) if self.travels else ()
        routed = self.route(self._router(x_BLD))
        how = {'split': self.together, 'parts': parts}
        y_BLD = by_rows(self.serve, matrices, x_BLD, *routed, **how)
        y_BLD = y_BLD.astype(self.dtype)
        if self.shared:
            shared = (self.activation, self.shared * hidden, False, 0.0, self.init, self.dtype)
            y_BLD = y_BLD + Gated(*shared, name='shared')(x_BLD)
        return Dropout(self.dropout)(y_BLD)

    def _matrices(self, width: int, hidden: int) -> Matrices:
        rest = (self.init, self.dtype)
        into = (self.experts, width, hidden, ('embed', 'mlp'), 'linear', *rest)
        back = (self.experts, hidden, width, ('mlp', 'embed'), 'residual', *rest)
        gate, up = (ExpertWeight(*into, name=name)() for name in EXPERTS[:2])
        return gate, up, ExpertWeight(*back, name=EXPERTS[2])()

    def _router(self, x_BLD: Tokens) -> Scores:
        """The probability of each expert."""
        # In float32: bfloat16's rounding swaps experts (Fedus et al. 2021, §2.4).
        router = Linear((self.experts,), ('embed',), ('choices',), init=self.init, name='router')
        logits_BLE = into_branch(router(x_BLD.astype(jnp.float32)))
        if self.router_z:
            z = jnp.mean(jax.nn.logsumexp(logits_BLE, -1) ** 2)
            add_loss(self, 'router_z', self.router_z * z)
        return jax.nn.softmax(logits_BLE, -1)

    @nn.nowrap
    def _experts(
        self,
        x: Float[Array, '...'],
        matrices: Matrices,
        product: Callable[[Full, Array, Array], Array],
    ) -> Float[Array, '...']:
        """Every expert's gated FFN on its own rows."""
        gate, up, out = matrices
        by_gate, by_in, by_out = (matmul_of(self, f'{name}/weight') for name in EXPERTS)
        x = x.astype(self.dtype)
        gates = named('ffn_in', product(by_gate, x, gate))
        units = named('ffn_in', product(by_in, x, up))
        hidden = named('ffn_hidden', activation(self.activation)(gates) * units)
        return product(by_out, hidden, out)

    @nn.nowrap
    def _served(
        self, x_BEPD: Float[Array, 'B N P D'], matrices: Matrices
    ) -> Float[Array, 'B N P D']:
        """What every expert makes of its places, on the device that has the expert."""
        x_BEPD = exchange(x_BEPD.astype(self.dtype), 'experts', split=1, join=0)
        y_BEPD = self._experts(x_BEPD, matrices, lambda matmul, *xw: matmul.contract_each(*xw))
        return exchange(y_BEPD, 'experts', split=0, join=1)


class MoE(Mixture):
    """Σ g_e·FFN_e(x) over the `top_k` experts of largest softmax(W_r·x) (Shazeer et al. 2017).

    Experts are gated FFNs. The gates g are the softmax over the chosen experts (Jiang et al. 2024);
    for one expert, its probability among all, so that the router learns (Fedus et al. 2021). No
    token is dropped, so a token's output depends on no other token. As any number may choose one
    expert, they do not travel: over a mesh axis of experts, these experts' weights are gathered.

    Added to the loss, a mean over all tokens, also padding: `balance`·E·Σ_e load_e·probability_e
    (Fedus et al. 2021), which is `balance` when balanced. `choice_bias` above 0 adds a bias to the
    choice alone; its gradient is so much times the load minus the mean load, which moves no other
    weight (Wang et al. 2024; goes with `balance=0`). `hidden`, `shared`, `router_z`: see `Mixture`.
    """

    together = ('batch', 'inner_length')
    travels = False

    top_k: Annotated[int, POSITIVE] = 2
    balance: Annotated[float, NOT_NEGATIVE] = 0.01
    choice_bias: Annotated[float, NOT_NEGATIVE] = 0.0

    def refusal(self) -> str:
        """Why its own fields cannot work together."""
        if self.top_k > self.experts:
            return f'needs top_k={self.top_k} experts for a token, but experts={self.experts}'
        return super().refusal()

    def met(self) -> float:
        return float(self.top_k)

    def route(self, probability_BLE: Scores) -> tuple[Where, Gates]:
        """The experts of each token, B×L×C."""
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('choices',))
        score_BLE, bias_E = probability_BLE, None
        if self.choice_bias:
            bias_E = self.param('choice_bias', zeros, (self.experts,))
            score_BLE = score_BLE + bias_E
        choice_BLC = _best(score_BLE, self.top_k, ('batch', 'inner_length'))
        gate_BLC = jnp.take_along_axis(probability_BLE, choice_BLC, -1)
        if self.top_k > 1:
            gate_BLC = gate_BLC / jnp.sum(gate_BLC, -1, keepdims=True)
        load_E = mean_over_rows(jnp.mean(jax.nn.one_hot(choice_BLC, self.experts), (0, 1, 2)))
        share_E = mean_over_rows(jnp.mean(probability_BLE, (0, 1)))
        if self.balance:
            add_loss(self, 'balance', self.balance * self.experts * jnp.sum(load_E * share_E))
        if bias_E is not None:
            # Worth 0, with the gradient that the bias is to have.
            excess_E = self.choice_bias * (load_E - 1 / self.experts)
            pull_E = bias_E - jax.lax.stop_gradient(bias_E)
            add_loss(self, 'choice_bias', jnp.sum(excess_E * pull_E))
        return choice_BLC, gate_BLC

    @nn.nowrap
    def serve(self, matrices: Matrices, x_BLD: Tokens, where: Where, gate: Gates) -> Tokens:
        # Rows of one token for each of its choices, sorted by expert.
        choice_N = where.reshape(-1)
        order_N = jnp.argsort(choice_N, stable=True)
        sizes_E = jnp.bincount(choice_N, length=self.experts)
        x_ND = jnp.repeat(x_BLD.reshape(-1, x_BLD.shape[-1]), self.top_k, 0)
        product = lambda matmul, x, w: matmul.contract_groups(x, w, sizes_E)  # noqa: E731
        y_ND = self._experts(_permuted(x_ND, order_N), matrices, product)
        y_BLCD = _permuted(y_ND, jnp.argsort(order_N)).reshape(*where.shape, -1)
        return jnp.einsum('blcd,blc->bld', y_BLCD.astype(jnp.float32), gate)


class Switch(MoE):
    """`moe` whose experts take at most `capacity`·top_k·L/E of a row's L tokens, the first that
    choose them, and drop the rest: all products have one shape (Lepikhin et al. 2020, GShard; Fedus
    et al. 2021, Switch).

    A dropped choice adds 0, and the residual stream goes on; its gate is not given to the others.
    First come is first served, first and second choices alike, so no token changes an earlier one.
    But a token's output depends on the tokens before it in the row, also of other documents, and on
    the row's length: where choices are dropped, packed documents are not as each alone, and
    decoding, one token at a time, drops none. `dropped`, the share of choices, is reported.
    """

    together = ('batch',)
    travels = True

    top_k: Annotated[int, POSITIVE] = 1
    capacity: Annotated[float, POSITIVE] = 1.25

    def active_share(self) -> float:
        """At most; the products also have the rows of places that nobody took."""
        return min(1.0, self.capacity) * super().active_share()

    def route(self, probability_BLE: Scores) -> tuple[Where, Gates]:
        """The place of each choice among those of all experts, B×L×C; beyond them when dropped."""
        choice_BLC, gate_BLC = super().route(probability_BLE)
        places = self._places(choice_BLC.shape[1])
        choice_BN = choice_BLC.reshape(len(choice_BLC), -1)
        one_hot_BNE = jax.nn.one_hot(choice_BN, self.experts, dtype=jnp.int32)
        before_BN = jnp.sum((jnp.cumsum(one_hot_BNE, 1) - 1) * one_hot_BNE, -1)
        kept_BN = before_BN < places
        report(self, 'dropped', 1 - jnp.mean(kept_BN))
        # No place twice, not even beyond: that is what the scatter is promised.
        nowhere_N = self.experts * places + jnp.arange(choice_BN.shape[1])
        place_BN = jnp.where(kept_BN, choice_BN * places + before_BN, nowhere_N)
        return place_BN.reshape(choice_BLC.shape), gate_BLC

    @nn.nowrap
    def serve(self, matrices: Matrices, x_BLD: Tokens, where: Where, gate: Gates) -> Tokens:
        B, L, D = x_BLD.shape
        E, P = self.experts, self._places(L)
        x_BND = jnp.repeat(x_BLD, self.top_k, 1)
        empty_MD = jnp.zeros((E * P, D), x_BLD.dtype)

        def put(x_ND: Array, place_N: Array) -> Array:
            return empty_MD.at[place_N].set(x_ND, mode='drop', unique_indices=True)

        def take(y_MD: Array, place_N: Array) -> Array:
            return y_MD.at[place_N].get(mode='fill', fill_value=0, unique_indices=True)

        place_BN = where.reshape(B, -1)
        x_BEPD = jax.vmap(put)(x_BND, place_BN).reshape(B, E, P, D)
        y_BMD = self._served(x_BEPD, matrices).reshape(B, E * P, D)
        y_BLCD = jax.vmap(take)(y_BMD, place_BN).reshape(B, L, -1, D)
        return jnp.einsum('blcd,blc->bld', y_BLCD.astype(jnp.float32), gate)

    def _places(self, length: int) -> int:
        """How many tokens of a row an expert takes; a token chooses it once at most."""
        return min(length, math.ceil(self.capacity * self.top_k * length / self.experts))


class ExpertChoice(Mixture):
    """Each expert takes the `capacity`·L/E tokens of a row to which softmax(W_r·x) gives it most,
    with that as the gate; a token has any number of experts, none too (Zhou et al. 2022).

    All products have one shape and no loss has to balance them. The paper's group of tokens is the
    batch; here it is the row, padding included. Whether a token is taken depends on later ones, so
    a causal mask refuses it. `unserved`, the share of tokens without an expert, is reported.
    """

    capacity: Annotated[float, POSITIVE] = 2.0
    causal = False

    def refusal(self) -> str:
        """Why its own fields cannot work together."""
        if self.capacity > self.experts:
            return f'gives a token {self.capacity} experts, but experts={self.experts}'
        return super().refusal()

    def met(self) -> float:
        return self.capacity

    def route(self, probability_BLE: Scores) -> tuple[Where, Gates]:
        """The tokens of each expert, B×E×P."""
        length = probability_BLE.shape[1]
        places = math.ceil(self.capacity * length / self.experts)
        probability_BEL = probability_BLE.swapaxes(1, 2)
        token_BEP = _best(probability_BEL, places, ('batch',))
        gate_BEP = jnp.take_along_axis(probability_BEL, token_BEP, -1)
        served_BL = jnp.any(jax.nn.one_hot(token_BEP, length, dtype=bool), (1, 2))
        report(self, 'unserved', 1 - jnp.mean(served_BL))
        return token_BEP, gate_BEP

    @nn.nowrap
    def serve(self, matrices: Matrices, x_BLD: Tokens, where: Where, gate: Gates) -> Tokens:
        x_BEPD = jax.vmap(lambda x_LD, token_EP: x_LD[token_EP])(x_BLD, where)
        y_BEPD = self._served(x_BEPD, matrices) * gate[..., None]
        empty_LD = jnp.zeros(x_BLD.shape[1:], jnp.float32)
        return jax.vmap(lambda token, y: empty_LD.at[token].add(y))(where, y_BEPD)


def _best(score: Float[Array, 'B N M'], count: int, split: tuple[str, ...]) -> Int[Array, 'B N C']:
    """Which of the last dim's entries are largest; `split` are the axes of the leading dims."""
    return by_rows(lambda _, x: jax.lax.top_k(x, count)[1], (), score, split=split)


def _permuted(x_ND: Float[Array, 'N D'], order_N: Int[Array, ' N']) -> Float[Array, 'N D']:
    """The rows in the given order; no row twice, which makes the backward pass deterministic."""
    return x_ND.at[order_N].get(unique_indices=True, mode='promise_in_bounds')
