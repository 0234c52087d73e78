"""Does pre-training on Python help a model that says whether a summary is of this function?

    python launch.py                                             # the checkpoint to start from
    python launch.py --config=experiments/finetune/summary_pairs.py

Pairs of a function and the first line of a docstring, its own in about half of the pairs and that
of a function near it, mostly of the same file, in the others: accuracy of one class is about 0.5.
The checkpoint of the quickstart is fine-tuned, and the same model is trained from scratch with the
same budget. Not run yet.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """150 updates of 16 pairs, from runs/quickstart and from scratch."""
    c = defaults.get_config()
    c.task = 'classification'
    c.num_steps = 150
    c.data.source = 'pystdlib_summaries(longest=250)'
    c.data.format = 'pair("candidate", "prompt", label="belongs")'
    c.data.packing = 'pad(truncate=True)'
    c.data.seq_len, c.data.batch_size = 256, 16
    c.model.head = 'classifier(pool="last")'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=15)'
    c.init_from.path = 'runs/quickstart'
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.baselines = ('scratch: init_from.path=',)
    c.evals.validation.every, c.evals.validation.batches = 150, 0
    c.evals.validation.scores = ('f1',)
    return c
