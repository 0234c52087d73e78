"""Does a decoder without an encoder learn to fill the gaps in Python?

    python launch.py --config=experiments/pretrain/decoder_spans.py

Not run yet. The quickstart's model reads the text with its gaps as a prefix, from both sides, and
spells the gaps after it: to be compared with `t5_quickstart.py`, whose spans are the same.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """160 updates of 32 texts of 128 bytes, which become rows of 144 tokens."""
    c = defaults.get_config()
    c.num_steps = 160
    c.task = 'span_corruption(rate=0.5, mean_length=8.0, sentinels=16, decoder_only=True)'
    c.data.seq_len, c.data.batch_size = 128, 32
    c.model.mask = 'prefix'
    c.model.max_length = 144
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every, c.evals.validation.batches = 80, 32
    c.sample = 'def __init__(self, name<extra_id_0>:\n        self.name = <extra_id_1>\n'
    return c
