"""Does the best learning rate of a narrow model stay the best one of a wide model under muP?

    python launch.py sweep --config=experiments/ablations/mup.py

Yes, within a factor of two, which is how far the rates are apart: with mup(base_width=32) 2^-6 is
best at widths 16, 32, 64 and 128; with fan_in it is 2^-5, 2^-6, 2^-7 and 2^-8. The wider model is
also the better one at one rate with muP, at 2^-6 2.207, 2.016, 1.908 and 1.731 nats; with fan_in
2.237, 2.016, 1.909 and 1.991. One seed, two shared CPU cores; README.md beside this folder has the
grid and its loop.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep, cross, grid, zipped
from experiments import defaults

WIDTHS = (16, 32, 64, 128)
HEAD_DIM = 16


def get_config(arg: str = '') -> ConfigDict:
    """A decoder of two layers of width 32; a wider one has more heads of 16 features."""
    c = defaults.get_config()
    c.num_steps = 200
    c.data.seq_len, c.data.batch_size = 64, 32
    c.model.depth, c.model.width, c.model.num_heads = 2, 32, 2
    c.model.init, c.model.head = 'mup(base_width=32)', 'lm(tied=False)'
    c.optimizer.weight_decay = 0.0
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 200, 64
    return c


def sweep() -> Sweep:
    """Widths × rates, with muP and without."""
    heads = tuple(width // HEAD_DIM for width in WIDTHS)
    widths = zipped({'model.width': WIDTHS, 'model.num_heads': heads})
    inits = grid({'model.init': ('mup(base_width=32)', 'fan_in')})
    rates = grid({'optimizer.learning_rate': tuple(2.0**-n for n in (8, 7, 6, 5))})
    # At width 32 both are the same.
    arms = [
        a
        for a in cross(inits, widths, rates)
        if (a['model.init'], a['model.width']) != ('fan_in', 32)
    ]
    names = [
        f'{a["model.init"][:3]}-{a["model.width"]}-{a["optimizer.learning_rate"]:g}' for a in arms
    ]
    return Sweep([{'name': n, **a} for n, a in zip(names, arms, strict=True)])
