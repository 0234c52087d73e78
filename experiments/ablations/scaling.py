"""How large should a byte-level model of Python be for so many FLOPs, and how good does it get?

    python launch.py sweep --config=experiments/ablations/scaling.py
    python launch.py scaling runs/scaling
    python launch.py size --flops=1e14 --fit=runs/scaling/scaling.json

Five sizes at each of four budgets of FLOPs, one seed: the best of those tried has 43k parameters
(1.556 nats), 127k (1.461), 127k (1.380) and 234k (1.307); it grows as C^0.70 (95 % interval 0.63 to
0.86), and L = 0.79 + 9.12/N^0.262 + 1504/D^0.621. 15 minutes by one worker on two cores
that others kept busy. The smallest model reads up to 13M tokens at
the largest budget, of 8.2M that there are: under two epochs, which cost hardly more than new text
would (Muennighoff et al. 2023).
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults

BUDGETS = (5e11, 1e12, 2e12, 4e12)
# depth, width, heads, FLOPs a token as `launch.py show` counts them (a test holds this)
SIZES = {
    '43k': (2, 32, 2, 307_200),
    '71k': (2, 48, 3, 497_664),
    '127k': (2, 64, 4, 860_160),
    '234k': (4, 64, 4, 1_597_440),
    '474k': (4, 96, 6, 3_133_440),
}
LENGTH, ROWS = 64, 16


def get_config(arg: str = '') -> ConfigDict:
    """The quickstart's parts and optimizer on rows of 64 bytes; evaluated at the end alone."""
    c = defaults.get_config()
    c.data.seq_len, c.data.batch_size = LENGTH, ROWS
    c.optimizer.name, c.optimizer.learning_rate = 'muon', 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.log_every = 50
    c.checkpoint.every = 1_000_000  # at the end
    c.evals.validation.every, c.evals.validation.batches = 1_000_000, 128
    return c


def sweep() -> Sweep:
    """Every size at every budget, as long as the budget lasts."""
    arms = []
    for budget in BUDGETS:
        for name, (depth, width, heads, flops) in SIZES.items():
            shape = {'model.depth': depth, 'model.width': width, 'model.num_heads': heads}
            steps = round(budget / (flops * LENGTH * ROWS))
            arms.append({'name': f'{name}-{budget:.0e}', **shape, 'num_steps': steps})
    return Sweep(arms, baseline=arms[2]['name'], metric='validation/loss')
