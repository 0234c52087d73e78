"""Does a small student learn more from a teacher than from the text alone?

    python launch.py                                                 # the teacher
    python launch.py sweep --config=experiments/finetune/distillation.py

A student of two layers of width 64 learns from the text and from what the quickstart's model says
of each next byte (Hinton et al. 2015); the same student learns from the text alone for as many
steps. Validation nll 1.698 nats a byte and accuracy 0.550 with the teacher, 1.790 and 0.530 without
(one seed, 32 batches; 143 and 101 s on two busy CPU cores).
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """250 updates of 16 rows with runs/quickstart as the teacher, and without one."""
    c = defaults.get_config()
    c.task = 'distillation(weight=0.5, temperature=2.0)'
    c.companions = ('teacher: runs/quickstart',)
    c.num_steps = 250
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.depth, c.model.width, c.model.num_heads = 2, 64, 4
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 250, 32
    return c


def sweep() -> Sweep:
    """The student with a teacher against the same one alone."""
    arms = ({'name': 'alone', 'task': 'causal_lm', 'companions': ()}, {'name': 'taught'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/nll')
