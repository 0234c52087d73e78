"""Cross-attention: how a decoder reads what an encoder made of its source."""

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.attention import Attention
from bigmodel.layers.cache import keep
from bigmodel.layers.coordinates import Context
from bigmodel.layers.masks import SameSegment
from bigmodel.layers.norms import NORMS
from bigmodel.specs import bind


class CrossAttention(Attention):
    """Attention whose keys and values are the encoder's (Vaswani et al. 2017, §3.2.3).

    It sees the whole source of the query's document, and knows no positions. While decoding, keys
    and values are made once.
    """

    contextual = False

    def refusal(self) -> str:
        if self.fused_qkv:
            return 'cannot make queries and keys in one product: they are of different tokens'
        return ''

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        memory, G = context.memory, self.num_kv_heads
        norm = bind(NORMS, self.qk_norm, 'attention(qk_norm=...)', axis='head_dim')
        q_BLHK = norm(name='q_norm')(self._to_heads('q', self.num_heads)(x_BLD))
        keys = lambda: norm(name='k_norm')(self._to_heads('k', G, 'kv_heads')(memory.x_BSD))  # noqa: E731
        values = lambda: self._to_heads('v', G, 'kv_heads')(memory.x_BSD)  # noqa: E731
        k_BSGK, v_BSGK = keep(self, 'keys', keys), keep(self, 'values', values)
        across = Context(context.queries, memory.keys)
        return self._attend(q_BLHK, k_BSGK, v_BSGK, SameSegment(), across, x_BLD)


CROSSES = {'attention': CrossAttention}
