"""Does a norm before each branch allow higher learning rates than one after the sum?

    python launch.py sweep --config=experiments/ablations/norms.py

Yes, by a factor of thirty: from 1e-2 on post-norm (norm(x + f x), Vaswani et al. 2017) stays at
3.09 nats, as good as letter frequencies alone, while pre-norm (x + f(norm x)) and sandwich norms
learn up to 1e-1. But at its best rate, 3e-3, post-norm is the better one: 2.066 nats against pre-
norm's 2.458 (seeds 0 to 2). Eight layers, AdamW, 200 steps; 45 runs in 21 minutes on two cores
beside much else.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep, grid
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """200 updates of 16 rows of 64 bytes, of eight layers of width 64."""
    c = defaults.get_config()
    c.num_steps = 200
    c.data.seq_len, c.data.batch_size = 64, 16
    c.model.depth, c.model.width, c.model.num_heads = 8, 64, 4
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 100, 64
    return c


def sweep() -> Sweep:
    """Blocks × rates over three seeds."""
    blocks, rates = ('prenorm', 'postnorm', 'sandwich'), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    arms = grid({'model.block': blocks, 'optimizer.learning_rate': rates})
    return Sweep(arms, seeds=(0, 1, 2), baseline='prenorm,learning_rate=0.01')
