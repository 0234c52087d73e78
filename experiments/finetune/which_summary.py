"""Does pre-training on Python help a model that chooses the summary of a function among four?

    python launch.py                                             # the checkpoint to start from
    python launch.py sweep --config=experiments/finetune/which_summary.py

The wrong ones are summaries of functions near it, mostly of the same file. The checkpoint of the
quickstart is fine-tuned, and the same model is trained from scratch with the same budget. Not run
yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """150 updates of 8 functions with four summaries each, from runs/quickstart."""
    c = defaults.get_config()
    c.task = 'multiple_choice'
    c.num_steps = 150
    c.data.source = 'pystdlib_summaries(longest=250)'
    c.data.format = 'choices("options", "prompt")'
    c.data.packing = 'pad(truncate=True)'
    c.data.seq_len, c.data.batch_size = 256, 8
    c.model.head = 'regressor(pool="last")'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=15)'
    c.init_from.path = 'runs/quickstart'
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every, c.evals.validation.batches = 150, 64
    return c


def sweep() -> Sweep:
    """The checkpoint against the same model from scratch."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/accuracy')
