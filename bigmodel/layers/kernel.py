"""What a kernel is, and what a model asks of one."""

import dataclasses
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.masks import Mask
from bigmodel.layers.weights import PLAIN, SOFTMAX, Weighting, Weights

# Finite, so that a row with nothing to look at (padding) gives a mean and not a NaN.
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Request:
    """What a model asks of its kernel; `weights` is a part of WEIGHTS.

    `given_bias`: the bias is there before the kernel runs, whole, and not evaluated by blocks.
    `head_dim` is the width of the heads that the kernel sees. `split_rows`: no device has a whole
    row.
    """

    mask: Mask
    bias: bool
    dropout: float
    platform: str
    dtype: str
    weights: Weighting = SOFTMAX
    given_bias: bool = False
    head_dim: int = 64
    split_rows: bool = False


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Base of all kernels.

    `decoder` is the kernel that decodes with a causal mask in its stead, if it is another.
    """

    decoder: ClassVar[str] = ''

    def refusal(self, request: Request) -> str:
        """Why this kernel cannot serve `request`, or '' when it can."""
        return ''

    def __call__(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        v_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
        dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
        weights: Weights = PLAIN,
    ) -> Float[Array, 'B L H K']:
        """Attends; H query heads share G key–value heads (H a multiple of G)."""
        raise NotImplementedError
