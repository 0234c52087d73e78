"""Does a decoder learn UL2's seven denoisers at once?

    python launch.py --config=experiments/pretrain/ul2.py

Not run yet. The quickstart's model without an encoder; rows are padded to the longest denoiser's.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """200 updates of 16 texts of 128 bytes, which become rows of up to 171 tokens."""
    c = defaults.get_config()
    c.num_steps = 200
    c.task = 'ul2(sentinels=24, decoder_only=True)'
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.mask = 'prefix'
    c.model.max_length = 171
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 100, 32
    c.sample = 'def __init__(self, name):\n        self.'
    return c
