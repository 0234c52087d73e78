"""Does a small encoder learn which bytes of Python a masked LM has put in?

    python launch.py --config=experiments/pretrain/masked_lm.py       # the generator
    python launch.py sweep --config=experiments/pretrain/replaced_tokens.py

The second stage of the two-stage training of Clark et al. (2020, §3.2): runs/masked_lm is the
generator, which stays as it is, and the discriminator begins with its weights, under a head of its
own; its baseline begins anew. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """As many updates of the same encoder, after those of the masked LM."""
    c = defaults.get_config()
    c.task = 'replaced_tokens'
    c.companions = ('generator: runs/masked_lm',)
    c.num_steps = 420
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.mask, c.model.head = 'full', 'detector'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.init_from.path = 'runs/masked_lm'
    c.init_from.restore = (('head/.*', False), ('.*', True))
    c.evals.validation.every, c.evals.validation.batches = 140, 32
    return c


def sweep() -> Sweep:
    """The discriminator that begins with the generator’s weights, against one that begins anew."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/loss')
