"""Does a fifth of another text cost a small model of Python anything, and does it learn both?

    python launch.py sweep --config=experiments/pretrain/mixture.py

Four of five rows are the sources of Python's standard library, one is a function with the first
line of its docstring, which the sources hold too. The baseline `code` reads the sources alone, with
the same number of updates. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """200 updates of 16 rows of 128 bytes, of two sources and of one."""
    c = defaults.get_config()
    c.num_steps = 200
    summaries = 'source=pystdlib_summaries \'format=text(text=("prompt", "response"))\''
    c.data.mixture = ('code: 0.8', f'summaries: 0.2 {summaries}')
    c.data.seq_len, c.data.batch_size = 128, 16
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 200, 64
    return c


def sweep() -> Sweep:
    """Two sources against the first one alone."""
    arms = ({'name': 'code', 'data.mixture': ('code: 1',)}, {'name': 'both'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/nll/code', better='min')
