"""Does a small decoder prefer another encoding and block once its learning rate is adapted?

    python launch.py sweep --config=experiments/ablations/tpe.py

It seems so: the best of 24 arms is post-norm with ALiBi at the rate 0.004, 2.400 nats, the baseline
(RoPE, pre-norm, 0.01) has 2.642. From the eleventh arm on, where the tree-structured Parzen
estimator proposes, all arms are post-norm. One seed, so these are candidates, to be compared over
seeds; four minutes on two busy CPU cores, with one stop. Two workers end in another order each
time, and so do the proposals differ.
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
