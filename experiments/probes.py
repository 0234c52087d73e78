"""Can this mixer copy, recall, select, sort, add? Choose a probe with the card's argument.

    python launch.py --config=experiments/probes.py:mqar

Attention with RoPE recalls and copies: accuracy of the validation answers after 400 steps, one seed
each: mqar 1.000 (27 s), copying 1.000, induction 1.000, modular 0.998, sorting 0.967. Not solved
yet are selective_copying, 0.782, and needle, 0.533. On two shared, busy CPU cores, 24 to 101 s.
"""

from ml_collections import ConfigDict

from bigmodel.errors import unknown
from experiments import defaults

# probe -> (source, seq_len)
PROBES = {
    'copying': ('copying(symbols=16)', 48),
    'sorting': ('sorting(symbols=16)', 48),
    'selective_copying': ('selective_copying(count=8, symbols=16)', 48),
    'induction': ('induction(symbols=16, repeats=2)', 48),
    'mqar': ('mqar(pairs=4, keys=16, values=16)', 24),
    'modular': ('modular(modulus=5, terms=3)', 48),
    'needle': ('needle(size=4, symbols=16)', 48),
}


def get_config(arg: str = '') -> ConfigDict:
    """A decoder of two layers on the probe that `arg` names; `accuracy` is that of the answers."""
    c = defaults.get_config()
    probe = arg or 'mqar'
    if probe not in PROBES:
        raise unknown('probe', probe, PROBES)
    c.name = f'probes-{probe}'
    c.num_steps = 400
    c.data.source, c.data.seq_len = PROBES[probe]
    c.data.batch_size = 32
    c.model.depth, c.model.width, c.model.num_heads = 2, 64, 2
    c.model.position = 'rope(theta=100)'
    # With token vectors of 0.02 the first layer's output drowns them, and nothing is recalled.
    c.model.init, c.model.head = 'fan_in(embed=1.0)', 'lm(tied=False)'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every = 100
    return c
