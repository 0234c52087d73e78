"""Does the best learning rate of a narrow model stay the best one of a wide model under muP?

    python launch.py --config=experiments/ablations/mup.py:256 --config.optimizer.learning_rate=0.01

Yes, within a factor of two, which is how far the rates are apart: with mup(base_width=32) 2^-6 is
best at widths 16, 32, 64 and 128; with fan_in it is 2^-5, 2^-6, 2^-7 and 2^-8. The wider model is
also the better one at one rate with muP, at 2^-6 2.207, 2.016, 1.908 and 1.731 nats; with fan_in
2.237, 2.016, 1.909 and 1.991. One seed, two shared CPU cores; README.md beside this folder has the
grid and its loop.
"""

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments import defaults

HEAD_DIM = 16


def get_config(arg: str = '') -> ConfigDict:
    """A decoder of two layers of the width `arg`, widened by more heads of 16 features."""
    width = int(arg) if arg.isdecimal() else 0 if arg else 32
    if not width or width % HEAD_DIM:
        raise UserError(f'the width {arg!r} must be a multiple of {HEAD_DIM}, as in mup.py:64')
    c = defaults.get_config()
    c.name = f'mup-{width}'
    c.num_steps = 200
    c.data.seq_len, c.data.batch_size = 64, 32
    c.model.depth, c.model.width, c.model.num_heads = 2, width, width // HEAD_DIM
    c.model.init, c.model.head = 'mup(base_width=32)', 'lm(tied=False)'
    c.optimizer.weight_decay = 0.0
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 200, 64
    return c
