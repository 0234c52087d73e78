"""Does a small decoder prefer another encoding and block once its learning rate is adapted?

    python launch.py sweep --config=experiments/ablations/tpe.py

Not run yet. Adaptive search of 24 arms: the first ten at random, each other one proposed from what
those before it came to (tree-structured Parzen estimator). One seed: the winners are candidates,
to be compared with the baseline over seeds.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Search, Sweep, choice, log_uniform
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """100 updates of 16 rows of 64 bytes, of two layers of width 64."""
    c = defaults.get_config()
    c.num_steps = 100
    c.data.seq_len, c.data.batch_size = 64, 16
    c.model.depth, c.model.width, c.model.num_heads = 2, 64, 4
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=10)'
    c.evals.validation.every, c.evals.validation.batches = 100, 32
    return c


def sweep() -> Sweep:
    """RoPE with pre-norm, and 24 arms."""
    space = {
        'optimizer.learning_rate': log_uniform(1e-3, 1e-1),
        'model.position': choice('rope', 'alibi', 'none'),
        'model.block': choice('prenorm', 'sandwich', 'postnorm'),
    }
    return Sweep(search=Search(trials=24, space=space, sampler='tpe(seed=0)'))
