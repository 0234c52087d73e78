"""The table of feed-forward layers."""

from bigmodel.layers.feedforward import MLP, Gated
from bigmodel.layers.moe import ExpertChoice, MoE, Switch

FFNS = {'mlp': MLP, 'gated': Gated, 'moe': MoE, 'switch': Switch, 'expert_choice': ExpertChoice}
