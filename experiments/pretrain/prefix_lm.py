"""Does the quickstart's model learn to go on from a prefix that it reads from both sides?

    python launch.py --config=experiments/pretrain/prefix_lm.py

Yes: 1.468 nats a byte and accuracy 0.611 of the bytes after the prefix, half of a row on average,
after 420 steps. One seed, 32 batches of the validation split, one host device; about 400 s on two
cores that many other processes shared, stopped once at step 395 and resumed.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """The quickstart's model and budget; the mask shows the prefix, whose length is drawn."""
    c = defaults.get_config()
    c.task = 'prefix_lm'
    c.num_steps = 420
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.mask = 'prefix'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 140, 32
    c.sample = 'def __init__(self, name):\n        self.'
    return c
