"""Does pre-training on Python help a model that says whether a summary is of this function?

    python launch.py                                             # the checkpoint to start from
    python launch.py sweep --config=experiments/finetune/summary_pairs.py

Pairs of a function and the first line of a docstring, its own in about half of the pairs and that
of a function near it, mostly of the same file, in the others: accuracy of one class is about 0.5.
The checkpoint of the quickstart is fine-tuned, and the same model is trained from scratch with the
same budget. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments.finetune import which_summary


def get_config(arg: str = '') -> ConfigDict:
    """150 updates of 16 pairs, from runs/quickstart."""
    c = which_summary.get_config()
    c.task, c.model.head = 'classification', 'classifier(pool="last")'
    c.data.format = 'pair("candidate", "prompt", label="belongs")'
    c.data.batch_size = 16
    c.evals.validation.batches, c.evals.validation.scores = 0, ('f1',)
    return c


def sweep() -> Sweep:
    """The checkpoint against the same model from scratch."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/accuracy')
