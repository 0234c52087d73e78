"""`jax.nn.dot_product_attention`: XLA's own fusion, and cuDNN's flash attention."""

from typing import ClassVar, Literal

import jax
from jaxtyping import Array, Float

from bigmodel.errors import UserError
from bigmodel.layers.coordinates import Context
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.masks import Mask, flags
from bigmodel.layers.names import named
from bigmodel.layers.weights import PLAIN, Weights


class Fused(Kernel):
    """`jax.nn.dot_product_attention` as XLA compiles it, on any device."""

    implementation: ClassVar[Literal['xla', 'cudnn']] = 'xla'

    def refusal(self, request: Request) -> str:
        if request.platform == 'cpu' and request.dtype == 'float16':
            return 'a CPU has no such products of float16 with float32 sums; use bfloat16'
        if request.dropout:
            return f'it has no dropout of attention weights (asked: {request.dropout})'
        if not request.weights.plain:
            return f'it needs softmax weights, but attention asks for {request.weights.described}'
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
        name = type(self).__name__.lower()
        if dropout and dropout_key is not None:
            raise UserError(f'model.kernel: {name} has no dropout of attention weights')
        if not weights.plain:
            raise UserError(f'model.kernel: {name} has softmax weights only')
        queries, keys = context.queries, context.keys
        bias = None if context.bias is None else context.bias(queries, keys).astype(q_BLHK.dtype)
        found = flags(mask)
        by_documents = found is not None and found.segments and keys.segment is not None
        # Flags count from the first key, so they say the mask only where queries are the keys.
        by_flags = context.aligned and found is not None and not by_documents
        # cuDNN's backward pass reads sums besides, which nothing outside of it can name.
        o_BLHK = jax.nn.dot_product_attention(
            q_BLHK,
            k_BSGK,
            v_BSGK,
            bias=bias,
            mask=None if by_flags else mask(queries, keys)[:, None],
            is_causal=bool(by_flags and found and found.causal),
            local_window_size=(found.window - 1, 0)
            if by_flags and found and found.window
            else None,
            implementation=self.implementation,
        )
        return named('attention_out', o_BLHK)


class Cudnn(Fused):
    """cuDNN's flash attention on a GPU, in half precision, behind the same function of JAX."""

    implementation = 'cudnn'

    def refusal(self, request: Request) -> str:
        if request.platform != 'gpu':
            return f'cuDNN needs a GPU, this is {request.platform}'
        if request.split_rows:
            return "cuDNN needs whole rows, and sharding.rules split them; use 'ring'"
        if request.dtype not in ('bfloat16', 'float16'):
            return f'cuDNN needs bfloat16 or float16, model.dtype is {request.dtype}'
        if request.head_dim % 8 or request.head_dim > 128:
            # JAX takes up to 256 from Hopper on; which GPU it is, no layer knows.
            return f'cuDNN needs heads of a multiple of 8 up to 128, these are {request.head_dim}'
        return super().refusal(request)
