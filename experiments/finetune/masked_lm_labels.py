"""Do 420 updates of masked pre-training help a classifier that gets few labelled steps?

    python launch.py --config=experiments/pretrain/masked_lm.py           # where it starts from
    python launch.py sweep --config=experiments/finetune/masked_lm_labels.py

Not measurably in windows of 128 bytes and 250 updates, where neither arm gets far. Validation
accuracy of the fine-tuned encoder (14 labels), seeds 0 to 2: 0.153, 0.153, 0.187; of the same model
from scratch, with the same budget: 0.130, 0.159, 0.174. Paired difference 0.010, 95 % interval
−0.027 to 0.047; losses 2.512, 2.538, 2.485 against 2.523, 2.534, 2.495. 257 to 942 s an arm on
two cores that many other processes shared. In windows of 256 (`--config.data.seq_len=256
--config.evals.validation.batches=64`), seed 0 alone: 0.216 and 2.379 against 0.156 and 2.439.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """250 updates of 16 rows, from runs/masked_lm."""
    c = defaults.get_config()
    c.task = 'classification'
    c.num_steps = 250
    c.data.packing = 'windows'
    c.data.seq_len, c.data.batch_size = 128, 16
    c.model.mask, c.model.head = 'full', 'classifier(pool="mean")'
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=15)'
    c.init_from.path = 'runs/masked_lm'
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every, c.evals.validation.batches = 250, 128
    return c


def sweep() -> Sweep:
    """The checkpoint against the same model from scratch."""
    arms = ({'name': 'scratch', 'init_from.path': ''}, {'name': 'tuned'})
    return Sweep(arms, seeds=(0, 1, 2), metric='validation/accuracy')
