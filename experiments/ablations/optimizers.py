"""Which optimizer takes a small decoder furthest in a fixed number of steps?

    python launch.py sweep --config=experiments/ablations/optimizers.py

Muon: validation loss 1.765 nats at its best rate, 1e-2, against 2.104 of AdamW at its, 3e-3 (seeds
0 to 2; difference -0.339, 95 % interval -0.412 to -0.266). Then Adafactor 1.991, Lion 2.258, SGD
2.276, each at the middle one of three rates. 45 runs in 16
minutes on two cores beside much else.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep, chain, cross, grid
from experiments import defaults

# optimizer -> learning rates
RATES = {
    'adamw': (1e-3, 3e-3, 1e-2),
    'muon': (3e-3, 1e-2, 3e-2),
    'lion': (3e-4, 1e-3, 3e-3),
    'adafactor': (1e-3, 3e-3, 1e-2),
    'sgd': (3e-2, 1e-1, 3e-1),
}


def get_config(arg: str = '') -> ConfigDict:
    """200 updates of 16 rows of 64 bytes, of two layers of width 128."""
    c = defaults.get_config()
    c.num_steps = 200
    c.data.seq_len, c.data.batch_size = 64, 16
    c.model.depth = 2
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 100, 64
    return c


def sweep() -> Sweep:
    """Optimizers, each at its rates, over three seeds."""
    arms = (
        cross(grid({'optimizer.name': (name,)}), grid({'optimizer.learning_rate': rates}))
        for name, rates in RATES.items()
    )
    return Sweep(chain(*arms), seeds=(0, 1, 2), baseline='adamw,learning_rate=0.003')
