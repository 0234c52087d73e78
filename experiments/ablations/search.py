"""Which learning rate, weight decay and warm-up does the quickstart's model train best with?

    python launch.py sweep --config=experiments/ablations/search.py

No better ones than it has, as far as one seed tells: 1.295 nats at a rate of 7.1e-3, a decay of
0.149 and 10 steps of warm-up, against its own 1.303. Random search of 16 arms beside the
quickstart's own values; after 60 and 180 steps what is not among the best third of those that have
come as far is ended, as the other 15 were. About 4 minutes by one worker on two shared cores. The
winner of a search is a candidate, to be compared over seeds.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Search, Sweep, choice, log_uniform
from experiments import quickstart


def get_config(arg: str = '') -> ConfigDict:
    """The quickstart, measured every 60 steps."""
    c = quickstart.get_config()
    c.sample = ''
    c.evals.validation.every, c.evals.validation.batches = 60, 16
    return c


def sweep() -> Sweep:
    """The quickstart's values, and 16 at random."""
    space = {
        'optimizer.learning_rate': log_uniform(1e-3, 1e-1),
        'optimizer.weight_decay': log_uniform(1e-3, 1.0),
        'schedule': choice(*(f'cosine(warmup_steps={n})' for n in (10, 30, 100))),
    }
    return Sweep(
        prune='halving(first=60, reduction=3)',
        search=Search(trials=16, space=space, sampler='random(seed=0)'),
    )
