"""The table of mixers: attention, its linear-time rivals, and the classical families."""

from bigmodel.layers.attention import Attention
from bigmodel.layers.convolution import GatedConv, ShortConv
from bigmodel.layers.delta import GatedDeltaNet
from bigmodel.layers.differential import Differential
from bigmodel.layers.latent import LatentAttention
from bigmodel.layers.linear_attention import LinearAttention, Retention
from bigmodel.layers.long_conv import LongConv
from bigmodel.layers.recurrent import RGLRU
from bigmodel.layers.rnn import GRU, LSTM
from bigmodel.layers.ssm import Mamba2
from bigmodel.layers.value_residual import ValueResidual

MIXERS = {
    'attention': Attention,
    'value_residual': ValueResidual,
    'differential': Differential,
    'mla': LatentAttention,
    'rglru': RGLRU,
    'linear_attention': LinearAttention,
    'retention': Retention,
    'gated_deltanet': GatedDeltaNet,
    'mamba2': Mamba2,
    'gru': GRU,
    'lstm': LSTM,
    'short_conv': ShortConv,
    'gated_conv': GatedConv,
    'long_conv': LongConv,
}
