"""What can convolutions, recurrences and attention recall and copy? One command trains them all.

    python launch.py sweep --config=experiments/ablations/mixers.py:mqar

Recall of four pairs (mqar), accuracy after 400 steps at one rate, seeds 0 to 2: attention with RoPE
1.000, gated DeltaNet 0.996, attention with a causal mask alone 0.872, Mamba-2 0.798, the hybrid
0.687, RG-LRU 0.613, GRU 0.537, LSTM 0.477, linear attention 0.461, retention 0.435, gated
convolutions 0.133, short ones 0.120. Induction: RG-LRU, gated DeltaNet, Mamba-2, GRU, LSTM and the
hybrid 1.000, attention with RoPE 0.983, with a causal mask alone 0.689, linear attention 0.582,
retention 0.372, convolutions 0.268 and 0.192. Two shared CPU cores, 5 to 15 s a run; README.md
beside this folder has what is measured of selective_copying.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep, chain, zipped
from experiments import probes

# They order their tokens on their own; `attention` here has a causal mask alone.
WITHOUT_POSITION = (
    'attention',
    'rglru',
    'linear_attention',
    'retention',
    'gated_deltanet',
    'mamba2',
    'gru',
    'lstm',
    'short_conv',
    'gated_conv',
)
HYBRID = ('layer(mixer="rglru", position="none")', 'causal')


def get_config(arg: str = '') -> ConfigDict:
    """The probe that `arg` names, with attention and RoPE."""
    c = probes.get_config(arg)
    c.name = c.name.replace('probes', 'mixers')
    c.evals.validation.every = c.num_steps
    return c


def sweep(arg: str = '') -> Sweep:
    """All mixers; `hybrid` has a layer of RG-LRU, then one of attention with RoPE."""
    alone = zipped({'model.mixer': WITHOUT_POSITION})
    arms = chain(
        {'name': 'attention-rope'},
        [{'name': arm['model.mixer'], 'model.position': 'none', **arm} for arm in alone],
        {'name': 'hybrid', 'model.pattern': HYBRID},
    )
    return Sweep(arms, seeds=(0, 1, 2), baseline='attention-rope', metric='validation/accuracy')
