"""Does text without labels help a classifier when one step learns from both?

    python launch.py sweep --config=experiments/finetune/semi_supervised.py

One row of four names the group of modules that it is of (14 labels), the others are text alone;
the auxiliary objective predicts the next byte of all of them (Radford et al. 2018, §3.2). The
baseline `labels` reads the same rows in the same order and does not learn their text. Both start
from nothing; evaluated is the labelled validation split. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """150 updates of 16 rows of 128 bytes, of which 4 have a label."""
    c = defaults.get_config()
    c.task = 'joint(first="classification", second="causal_lm", weight=0.5)'
    c.num_steps = 150
    c.data.mixture = ('labelled: 1', "text: 3 format='text(label=None)'")
    c.data.packing = 'windows'
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.head = 'joint(first=\'classifier(pool="mean")\', second="lm")'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=15)'
    c.evals.validation = defaults.evaluation('validation', 150, 128, data='source=pystdlib')
    return c


def sweep() -> Sweep:
    """Both objectives against that of the labels alone."""
    arms = ({'name': 'labels', 'task': 'joint(weight=0.0)'}, {'name': 'both'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/classification_accuracy', better='max')
