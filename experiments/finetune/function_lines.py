"""Does pre-training on Python help a model that guesses from a summary how long a function is?

    python launch.py                                             # the checkpoint to start from
    python launch.py sweep --config=experiments/finetune/function_lines.py

The model reads the first line of a docstring and says how many lines the function has without it,
by least squares; of those of 400 characters at most with their summary. A model that always says
the mean has the variance of the lines as its `mse`, and no correlation. The checkpoint of the
quickstart is fine-tuned, and the same model is trained from scratch with the same budget. Not run
yet.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments.finetune import which_summary


def get_config(arg: str = '') -> ConfigDict:
    """150 updates of 32 summaries, from runs/quickstart."""
    c = which_summary.get_config()
    c.task = 'regression'
    c.data.source = 'pystdlib_summaries(longest=400)'
    c.data.format = 'score("response", score="lines")'
    c.data.seq_len, c.data.batch_size = 96, 32
    c.evals.validation.batches, c.evals.validation.scores = 0, ('pearson', 'spearman')
    return c


def sweep() -> Sweep:
    """The checkpoint against the same model from scratch."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/mae')
