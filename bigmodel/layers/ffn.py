"""The table of feed-forward layers."""

from bigmodel.layers.feedforward import MLP, Gated
from bigmodel.layers.moe import MoE

FFNS = {'mlp': MLP, 'gated': Gated, 'moe': MoE}
