"""Attention kernels: softmax(QKᵀ/√d_k + bias)V over the pairs that a mask allows, one signature.

A kernel is a frozen dataclass with `__call__` (the product) and `refusal` (why it cannot serve a
request, or ''). One is chosen at set-up with `choose`, logged and recorded. All agree with
`Reference`, values and gradients; asking by name for one that cannot serve is an error.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.errors import UserError
from bigmodel.layers.coordinates import Context
from bigmodel.layers.masks import Mask, flags
from bigmodel.specs import make

# Finite, so that a row with nothing to look at (padding) gives a mean and not a NaN.
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Request:
    """What a model asks of its kernel."""

    mask: Mask
    bias: bool
    dropout: float
    platform: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Base of all kernels."""

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
    ) -> Float[Array, 'B L H K']:
        """Attends; H query heads share G key–value heads (H a multiple of G)."""
        raise NotImplementedError


class Reference(Kernel):
    """Plain einsums with a float32 softmax (Vaswani et al. 2017, eq. 1): the definition."""

    def __call__(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        v_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
        dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, 'B L H K']:
        B, L, H, K = q_BLHK.shape
        G, R = k_BSGK.shape[2], H // k_BSGK.shape[2]
        q_BGRLK = (q_BLHK * K**-0.5).reshape(B, L, G, R, K).transpose(0, 2, 3, 1, 4)
        k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
        logits = jnp.einsum('BGRLK,BGSK->BGRLS', q_BGRLK, k_BGSK).astype(jnp.float32)
        if context.bias is not None:
            bias_BHLS = context.bias(context.queries, context.keys)
            logits += bias_BHLS.reshape(-1, G, R, *bias_BHLS.shape[2:])
        allowed_BLS = mask(context.queries, context.keys)
        weights = softmax(jnp.where(allowed_BLS[:, None, None], logits, MASKED))
        if dropout_key is not None and dropout:
            keep = jax.random.bernoulli(dropout_key, 1 - dropout, weights.shape)
            weights = jnp.where(keep, weights / (1 - dropout), 0)
        o_BGRLK = jnp.einsum('BGRLS,BGSK->BGRLK', weights.astype(v_BGSK.dtype), v_BGSK)
        return o_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


@jax.custom_vjp
def softmax(x: Float[Array, '*s S']) -> Float[Array, '*s S']:
    """Softmax over the last dim; the backward pass p·(d − Σp·d) is written out.

    Autodiff differentiates the division and the exponential separately (measured on CPU: 1.2 times
    the step of a small model).
    """
    return jax.nn.softmax(x, axis=-1)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    p = jax.nn.softmax(x, axis=-1)
    return p, p


def _softmax_backward(p: Array, d: Array) -> tuple[Array]:
    return (p * (d - jnp.sum(p * d, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@dataclasses.dataclass(frozen=True)
class Fused(Kernel):
    """`jax.nn.dot_product_attention`: XLA's own fusion, or cuDNN's on a GPU.

    `implementation` is 'xla', 'cudnn', or 'auto': cuDNN for half precision on a GPU, else XLA.
    """

    implementation: str = 'auto'

    def refusal(self, request: Request) -> str:
        if self.implementation not in ('auto', 'xla', 'cudnn'):
            return f"implementation is 'auto', 'xla' or 'cudnn', not {self.implementation!r}"
        if request.dropout:
            return f'it has no dropout of attention weights (asked: {request.dropout})'
        if self.implementation == 'cudnn' and request.platform != 'gpu':
            return f'cuDNN needs a GPU, this is {request.platform}'
        if self.implementation == 'cudnn' and request.dtype not in ('bfloat16', 'float16'):
            return f'cuDNN needs bfloat16 or float16, model.dtype is {request.dtype}'
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
    ) -> Float[Array, 'B L H K']:
        if dropout and dropout_key is not None:
            raise UserError('model.kernel: fused has no dropout of attention weights')
        queries, keys = context.queries, context.keys
        bias = None if context.bias is None else context.bias(queries, keys).astype(q_BLHK.dtype)
        named = flags(mask)
        by_documents = named is not None and named.segments and keys.segment is not None
        # Flags count from the first key, so they say the mask only where queries are the keys.
        by_flags = context.aligned and named is not None and not by_documents
        return jax.nn.dot_product_attention(
            q_BLHK,
            k_BSGK,
            v_BSGK,
            bias=bias,
            mask=None if by_flags else mask(queries, keys)[:, None],
            is_causal=bool(by_flags and named and named.causal),
            local_window_size=(named.window - 1, 0)
            if by_flags and named and named.window
            else None,
            implementation=self._implementation(q_BLHK.dtype),
        )

    def _implementation(self, dtype: jnp.dtype) -> str:
        if self.implementation != 'auto':
            return self.implementation
        half = dtype in (jnp.bfloat16, jnp.float16)
        return 'cudnn' if jax.default_backend() == 'gpu' and half else 'xla'


KERNELS = {'reference': Reference, 'fused': Fused}


def choose(spec: str, request: Request) -> tuple[str, Kernel]:
    """The kernel named by `spec`, with its name; `'auto'` takes `fused` on a GPU where it serves.

    Raises UserError when a kernel that was asked for by name cannot serve `request`.
    """
    if spec == 'auto':
        serves = request.platform == 'gpu' and not Fused().refusal(request)
        spec = 'fused' if serves else 'reference'
    kernel = make(KERNELS, spec, 'model.kernel')
    reason = kernel.refusal(request)
    if reason:
        raise UserError(f'model.kernel={spec!r} cannot serve this model: {reason}')
    return spec, kernel
