"""Does an encoder–decoder that filled gaps in Python learn what a function is for?

    python launch.py --config=experiments/pretrain/t5_quickstart.py    # where it starts from
    python launch.py sweep --config=experiments/finetune/summaries_seq2seq.py

The encoder reads the source of a function, the decoder spells the first line of its docstring; the
same model is trained from scratch with the same budget. A decoder alone learns the same task in
instructions.py. The evaluation also scores what the model writes for 64 functions (ROUGE, exact
match). Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults
from experiments.pretrain import t5_quickstart


def get_config(arg: str = '') -> ConfigDict:
    """120 updates of 16 pairs, from runs/t5_quickstart."""
    c = defaults.get_config()
    c.task = 'seq2seq(target_length=64)'
    c.num_steps = 120
    c.data.source = 'pystdlib_summaries(longest=250)'
    c.data.format, c.data.packing = 'prompt', 'sides(truncate=True)'
    c.data.seq_len, c.data.batch_size = 224, 16
    c.model = t5_quickstart.get_config().model
    c.model.max_length = 224
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=10)'
    c.init_from.path = 'runs/t5_quickstart'
    c.evals.validation.every = 120
    c.evals.validation.scores = ('rouge', 'exact_match')
    c.sample = 'def is_empty(self):\n    return not self._items'
    return c


def sweep() -> Sweep:
    """The checkpoint against the same model from scratch."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/loss')
