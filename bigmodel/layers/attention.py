"""Multi-head and grouped-query attention: project, norm, rotate, kernel, project."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bigmodel.layers.cache import remember
from bigmodel.layers.coordinates import Context
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.kernel import Kernel
from bigmodel.layers.linear import Linear
from bigmodel.layers.masks import Causal, Mask, SameSegment
from bigmodel.layers.mixer import Mixer
from bigmodel.layers.names import named
from bigmodel.layers.norms import NORMS
from bigmodel.layers.positions import Position
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import WEIGHTS, Weighting
from bigmodel.specs import SHARE, bind


class Attention(Mixer):
    """softmax(QKᵀ/√d_k)V over `num_heads` heads (Vaswani et al. 2017).

    `num_kv_heads` < `num_heads` shares keys and values among groups of heads (Ainslie et al. 2023).
    `qk_norm` is a norm over each head of queries and keys (Henry et al. 2020). `weights` is a part
    of WEIGHTS: other ways from logits to weights than the softmax. `gate` multiplies the heads'
    output by σ(xW), feature by feature (Qiu et al. 2025). `dropout` is of the attention weights,
    `output_dropout` of the result; both act when a 'dropout' rng is given.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mask: Mask = Causal()
    position: Position = Position()
    position_key: str = ''
    kernel: Kernel = Reference()
    bias: bool = False
    out_bias: bool = False
    qk_norm: str = 'none'
    weights: str = 'softmax'
    gate: bool = False
    fused_qkv: bool = False
    dropout: Annotated[float, SHARE] = 0.0
    output_dropout: float = 0.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32
    max_length: int = 1024

    contextual = True
    pair_products = 2

    @property
    def weighting(self) -> Callable[..., Weighting]:
        """Constructs the part that `weights` names."""
        known = {'num_heads': self.num_heads, 'max_length': self.max_length}
        return bind(WEIGHTS, self.weights, 'attention(weights=...)', **known)

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        q_BLHK, k_BLGK, v_BLGK = self._project(x_BLD, context)
        norm = bind(NORMS, self.qk_norm, 'attention(qk_norm=...)', axis='head_dim')
        q_BLHK, k_BLGK = norm(name='q_norm')(q_BLHK), norm(name='k_norm')(k_BLGK)
        q_BLHK, k_BLGK = self.position.rotate(q_BLHK, k_BLGK, context)
        q_BLHK, k_BLGK = named('queries', q_BLHK), named('keys', k_BLGK)
        v_BLGK = named('values', v_BLGK)
        k_BSGK = remember(self, 'keys', k_BLGK, context)
        v_BSGK = remember(self, 'values', v_BLGK, context)
        mask = self.mask & SameSegment()
        context = context.replace(bias=context.biases.get(self.position_key))
        bias = self.position.contextual_bias(q_BLHK, k_BSGK, mask, context)
        context = context.replace(bias=bias)
        return self._attend(q_BLHK, k_BSGK, v_BSGK, mask, context, x_BLD)

    def _attend(
        self,
        q_BLHK: Array,
        k_BSGK: Array,
        v_BSGK: Array,
        mask: Mask,
        context: Context,
        x_BLD: Array,
    ) -> Float[Array, 'B L D']:
        """The kernel, and from its heads back to the residual stream, of which x is the input."""
        o_BLHK = self.kernel(
            q_BLHK,
            k_BSGK,
            v_BSGK,
            mask,
            context,
            self.dropout,
            self.make_rng('dropout') if self.dropout and self.has_rng('dropout') else None,
            self.weighting(name='weights')(),
        )
        if self.gate:
            o_BLHK = o_BLHK * jax.nn.sigmoid(self._to_heads('gate', self.num_heads)(x_BLD))
        return self.project_out(o_BLHK, x_BLD.shape[-1], bias=self.out_bias)

    def _project(self, x_BLD: Array, context: Context) -> tuple[Array, Array, Array]:
        H, G = self.num_heads, self.num_kv_heads
        if self.fused_qkv:  # one matrix product instead of three
            qkv = self._to_heads('qkv', H + 2 * G)(x_BLD)
            return tuple(jnp.split(qkv, (H, H + G), axis=2))
        return (
            self._to_heads('q', H)(x_BLD),
            self._to_heads('k', G, 'kv_heads')(x_BLD),
            self._to_heads('v', G, 'kv_heads')(x_BLD),
        )

    def _to_heads(self, name: str, heads: int, axis: str = 'heads') -> Linear:
        shape, axes = (heads, self.head_dim), (axis, 'head_dim')
        rest = (self.bias, 'linear', self.init, self.dtype)
        return Linear(shape, ('embed',), axes, *rest, name=name)
