"""Which position encodings read rows four times as long as those that they trained on?

python launch.py --config=experiments/ablations/positions.py:alibi
python launch.py extrapolate runs/positions-alibi runs/positions-rope --length=512
"""

from ml_collections import ConfigDict

from bigmodel.errors import unknown
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
    """A decoder of two layers with the encoding that `arg` names, on rows of 128 bytes."""
    c = defaults.get_config()
    encoding = arg or 'rope'
    if encoding not in ENCODINGS:
        raise unknown('encoding', encoding, ENCODINGS)
    c.name = f'positions-{encoding}'
    c.num_steps = 300
    c.model.depth = 2
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.position = ENCODINGS[encoding]
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 300, 64
    return c
