"""How much of a pre-trained model must be trained to name the group that a text belongs to?

    python launch.py                                                # where all but scratch start
    python launch.py sweep --config=experiments/finetune/what_is_trained.py

The quickstart's checkpoint and `quickstart_finetune.py`'s data, steps and batches; arms differ in
what is trained and in the learning rate alone. `scratch`, `full` and `layer_decay` train all
895,886 parameters, `probe` the head (1,806), `last` two of four layers with what is above them,
`lora`, `dora` and `qlora` an adapter of the attention's matrices and the head, `prompt` twenty
vectors before the row and the head. `qlora` keeps those matrices as 4-bit NormalFloats (Dettmers et
al. 2023): `launch.py show` says 2.81 MB of parameters where lora has 3.71 MB, and 211 kB of
optimizer state for both. `bias` is BitFit (Zaken et al. 2021): this model's layers have no
biases, so it trains the scales of its norms, the head, and nothing else.

Validation accuracy over seeds 0 to 2 of one quickstart: scratch 0.195, probe 0.201, prompt 0.209,
bias 0.233, lora 0.241, dora 0.253, qlora 0.255, layer_decay 0.259, full 0.276, last 0.348
(experiments/README.md has the table, and the times); 30 runs in 22 minutes by one worker on two
shared cores. Rates were chosen by validation loss in single runs (seed 0, 128 batches): full 2.242
at 3e-3, 2.374 at 1e-2; probe 2.480, 2.429, 2.445 at 1e-2, 3e-2, 1e-1; last 2.340 at 3e-3, 2.021 at
1e-2; lora 2.459, 2.333, 2.603 at 3e-3, 1e-2, 3e-2; bias 2.455, 2.394 at 1e-2, 3e-2.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults

HEAD = (('head/.*', True), ('.*', False))
BIASES = (('head/.*', True), ('.*/(bias|scale)$', True), ('.*', False))
ADAPTER = (('(adapter|head)/.*', True), ('.*', False))
PROMPT = (('(prompt|head)/.*', True), ('.*', False))
# name -> what differs, the learning rate first
ARMS = {
    'scratch': {'optimizer.learning_rate': 3e-3, 'init_from.path': ''},
    'full': {'optimizer.learning_rate': 3e-3},
    'probe': {'optimizer.learning_rate': 3e-2, 'optimizer.train': HEAD},
    'last': {'optimizer.learning_rate': 1e-2, 'optimizer.last_layers': 2},
    'bias': {'optimizer.learning_rate': 3e-2, 'optimizer.train': BIASES},
    'lora': {
        'optimizer.learning_rate': 1e-2,
        'optimizer.train': ADAPTER,
        'model.adapter': 'lora(rank=8)',
    },
    'dora': {
        'optimizer.learning_rate': 1e-2,
        'optimizer.train': ADAPTER,
        'model.adapter': 'dora(rank=8)',
    },
    'qlora': {
        'optimizer.learning_rate': 1e-2,
        'optimizer.train': ADAPTER,
        'model.adapter': 'qlora(rank=8)',
    },
    'prompt': {
        'optimizer.learning_rate': 3e-2,
        'optimizer.train': PROMPT,
        'model.prompt': 'soft(length=20)',
    },
    'layer_decay': {'optimizer.learning_rate': 3e-3, 'optimizer.layer_decay': 0.75},
}


def get_config(arg: str = '') -> ConfigDict:
    """250 updates of 16 rows, from runs/quickstart, of everything."""
    c = defaults.get_config()
    c.task = 'classification'
    c.num_steps = 250
    c.data.packing = 'windows'
    c.data.seq_len, c.data.batch_size = 256, 16
    c.model.head = 'classifier(pool="mean")'
    c.optimizer.name = 'muon'
    c.schedule = 'cosine(warmup_steps=15)'
    c.init_from.path = 'runs/quickstart'
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every, c.evals.validation.batches = 250, 128
    c.optimizer.learning_rate = 3e-3
    return c


def sweep() -> Sweep:
    """All arms against training from scratch."""
    arms = [{'name': name, **changes} for name, changes in ARMS.items()]
    return Sweep(arms, seeds=(0, 1, 2), baseline='scratch', metric='validation/accuracy')
