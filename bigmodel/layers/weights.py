"""How attention logits become weights: `attention(weights="softmax")`.

A part of `WEIGHTS` is a module, so that it may learn; called, it gives `Weights`: a pytree of the
arrays and numbers that a kernel needs. Kernels ask for properties of `Weights`, never for names.
"""

import dataclasses
import math
from typing import Annotated

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.specs import NOT_NEGATIVE


@flax.struct.dataclass
class Weights:
    """Base: an elementwise `score` of QKᵀ/√d_k, then masks and biases are added, then a call."""

    @property
    def plain(self) -> bool:
        """Whether this is the softmax and nothing else."""
        return False

    def score(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """What the product of queries and keys is turned into before anything is added to it."""
        return x

    def __call__(self, logits_BHLS: Float[Array, 'B H L S']) -> Float[Array, 'B H L S']:
        """The weights of the keys; masked logits are −1e30."""
        raise NotImplementedError


@flax.struct.dataclass
class Normalised(Weights):
    """exp(l) / (Σ_s exp(l_s) + exp(sink)), of logits that `cap` holds below it (0: no cap)."""

    sink_H: Float[Array, ' H'] | None = None
    cap: float = flax.struct.field(pytree_node=False, default=0.0)

    @property
    def plain(self) -> bool:
        return self.sink_H is None and not self.cap

    def before(self, num_heads: int) -> tuple[Float[Array, ' H'], Float[Array, ' H']]:
        """The maximum of the logits and the sum of exp(l − maximum) when no key is counted yet."""
        if self.sink_H is None:
            return jnp.full(num_heads, -1e30), jnp.zeros(num_heads)
        return self.sink_H, jnp.ones(num_heads)

    def score(self, x: Float[Array, '...']) -> Float[Array, '...']:
        return self.cap * jnp.tanh(x / self.cap) if self.cap else x

    def __call__(self, logits_BHLS: Float[Array, 'B H L S']) -> Float[Array, 'B H L S']:
        if self.sink_H is None:
            return jax.nn.softmax(logits_BHLS, axis=-1)
        B, _, L, _ = logits_BHLS.shape
        sink_BHL1 = jnp.broadcast_to(self.sink_H[:, None, None], (B, len(self.sink_H), L, 1))
        return jax.nn.softmax(jnp.concatenate([logits_BHLS, sink_BHL1], -1), axis=-1)[..., :-1]


PLAIN = Normalised()


@flax.struct.dataclass
class Elementwise(Weights):
    """σ(l + shift): keys do not compete."""

    shift: float = flax.struct.field(pytree_node=False)

    def __call__(self, logits_BHLS: Float[Array, 'B H L S']) -> Float[Array, 'B H L S']:
        return jax.nn.sigmoid(logits_BHLS + self.shift)


class Weighting(nn.Module):
    """Base of the table's parts: what kernels are told of them, and what they give to kernels."""

    @property
    def plain(self) -> bool:
        """Whether this is the softmax and nothing else."""
        return False

    @property
    def described(self) -> str:
        """Its class and arguments, for messages."""
        hidden = ('parent', 'name')
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = ', '.join(f'{k}={v}' for k, v in given.items() if k not in hidden)
        return f'{type(self).__name__}({shown})'

    @property
    def normalised(self) -> bool:
        """Whether the weights are exponentials over their sum, so that blocks can be merged."""
        return True

    def __call__(self) -> Weights:
        """What a kernel needs."""
        raise NotImplementedError


class Softmax(Weighting):
    """exp(l) / Σ_s exp(l_s) (Vaswani et al. 2017).

    With `cap`, the product of query and key is first cap·tanh(l/cap) (Gemma 2, 2024).
    """

    cap: Annotated[float, NOT_NEGATIVE] = 0.0

    @property
    def plain(self) -> bool:
        return not self.cap

    def __call__(self) -> Weights:
        return Normalised(cap=self.cap)


SOFTMAX = Softmax()


class OffByOne(Weighting):
    """exp(l) / (1 + Σ_s exp(l_s)): a head may look at nothing (Miller 2023)."""

    num_heads: int

    def __call__(self) -> Weights:
        return Normalised(jnp.zeros(self.num_heads))


class Sinks(Weighting):
    """exp(l) / (exp(sink) + Σ_s exp(l_s)) with a learned logit for each head.

    gpt-oss (OpenAI 2025), after the attention sinks of Xiao et al. 2023.
    """

    num_heads: int

    @nn.compact
    def __call__(self) -> Weights:
        init = nn.with_logical_partitioning(nn.initializers.zeros, ('heads',))
        return Normalised(self.param('sink', init, (self.num_heads,)))


class Sigmoid(Weighting):
    """σ(l − log n) for rows of n tokens (Ramapuram et al. 2024, §3.2).

    n is `model.max_length` and not the number of keys at hand, so that decoding with a cache of
    another length gives the same weights.
    """

    max_length: int

    @property
    def normalised(self) -> bool:
        return False

    def __call__(self) -> Weights:
        return Elementwise(-math.log(self.max_length))


WEIGHTS = {'softmax': Softmax, 'off_by_one': OffByOne, 'sinks': Sinks, 'sigmoid': Sigmoid}
