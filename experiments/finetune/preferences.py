"""Does a model that sums up functions learn to prefer the right summary, and what is lost?

    python launch.py                                                 # the checkpoints to start from
    python launch.py sweep --config=experiments/finetune/instructions.py --arms=tuned --seeds=0
    python launch.py --config=experiments/finetune/preferences.py:dpo
    python launch.py --config=experiments/finetune/preferences.py:simpo

The chosen response is the function's own summary, the rejected one that of a function near it:
pairs that are always right, made without any person's judgement, so that the loss, the margin and
the texts can be watched on every machine. DPO's reference is the run that it starts from; SimPO
has none. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments import defaults

TASKS = {'dpo': 'dpo(beta=0.1)', 'simpo': 'simpo(beta=2.0, gamma=0.5)'}


def get_config(arg: str = '') -> ConfigDict:
    """60 updates of 8 pairs by the task that `arg` names (dpo), from a run of instructions."""
    name = arg or 'dpo'
    if name not in TASKS:
        raise UserError(f'preferences.py:{name}: the tasks are {", ".join(TASKS)}')
    c = defaults.get_config()
    c.name = f'preferences-{name}'
    c.task = TASKS[name]
    c.num_steps = 60
    c.data.source = 'pystdlib_summaries(longest=250)'
    c.data.format = 'preference("prompt", "response", "other")'
    c.data.packing = 'pad(truncate=True)'
    c.data.seq_len, c.data.batch_size = 256, 8
    c.optimizer.learning_rate = 1e-4
    c.schedule = 'cosine(warmup_steps=10)'
    c.init_from.path = 'runs/instructions/tuned/seed0'
    c.evals.validation.every, c.evals.validation.batches = 60, 32
    return c
