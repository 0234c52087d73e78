"""The table of mixers: attention, its linear-time rivals, and the classical families."""

from bigmodel.layers.attention import Attention
from bigmodel.layers.convolution import GatedConv, ShortConv
from bigmodel.layers.linear_attention import LinearAttention, Retention
from bigmodel.layers.recurrent import RGLRU

MIXERS = {
    'attention': Attention,
    'rglru': RGLRU,
    'linear_attention': LinearAttention,
    'retention': Retention,
    'short_conv': ShortConv,
    'gated_conv': GatedConv,
}
