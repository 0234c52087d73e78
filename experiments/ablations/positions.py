"""Which position encodings read rows four times as long as those that they trained on?

    python launch.py sweep --config=experiments/ablations/positions.py
    python launch.py extrapolate runs/positions/*/seed0 --length=512 --batches=16

CoPE, KERPLE and ALiBi do, and read better than within it: 1.445, 1.483 and 1.636 nats up to 128,
1.418, 1.451 and 1.600 beyond, to 512. xPos and FIRE lose 0.06 and 0.05, RoPE 0.76 (with YaRN's
scaling of the same run 0.03, from a start that is 0.14 worse), sinusoids 1.9; learned positions are
refused there (one seed). At the training length, over seeds 0 to 2, CoPE is better than RoPE (1.483
against 1.510 nats), KERPLE, FIRE and xPos are within noise, the others worse. Two shared CPU cores;
README.md beside this folder has both tables.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults

# name -> model.position
ENCODINGS = {
    'none': 'none',
    'sinusoidal': 'sinusoidal',
    'learned': 'learned',
    'rope': 'rope',
    'xpos': 'xpos',
    'alibi': 'alibi',
    't5': 't5',
    'kerple': 'kerple',
    'fire': 'fire(threshold=32.0)',  # a quarter of the training length, as in the paper
    'cope': 'cope',
}


def get_config(arg: str = '') -> ConfigDict:
    """A decoder of two layers with RoPE, on rows of 128 bytes."""
    c = defaults.get_config()
    c.num_steps = 300
    c.model.depth = 2
    c.data.seq_len, c.data.batch_size = 128, 16
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 300, 64
    return c


def sweep() -> Sweep:
    """Every encoding of sequences, over three seeds, against RoPE."""
    arms = [{'name': name, 'model.position': spec} for name, spec in ENCODINGS.items()]
    return Sweep(arms, seeds=(0, 1, 2), baseline='rope')
