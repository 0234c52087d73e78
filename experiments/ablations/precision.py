"""What does training in fewer bits cost, next to bfloat16?

    pip install qwix
    python launch.py sweep --config=experiments/ablations/precision.py

Nothing that three seeds show: validation loss 2.101 in bfloat16, 2.104 in float32, 2.091 in float16
with loss scaling (one step skipped), 2.100 with products of int8 (2.093 with those for the weights'
gradients too), 2.116 of fp8; paired differences of -0.010 to 0.016 are within noise, and the 95 %
intervals of int8 are -0.016 to 0.015 and -0.019 to 0.004. 18 runs in 9 minutes on two cores beside
much else.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults

# name -> what differs
ARMS = {
    'float32': {'model.dtype': 'float32'},
    'bfloat16': {'model.dtype': 'bfloat16'},
    'float16': {'model.dtype': 'float16'},  # with dynamic loss scaling
    'int8': {'model.dtype': 'bfloat16', 'model.matmul': 'int8'},
    'int8_all': {'model.dtype': 'bfloat16', 'model.matmul': 'int8(gradients="all")'},
    'fp8': {'model.dtype': 'bfloat16', 'model.matmul': 'fp8'},
}


def get_config(arg: str = '') -> ConfigDict:
    """200 updates of 16 rows of 64 bytes, of two layers of width 128."""
    c = defaults.get_config()
    c.num_steps = 200
    c.data.seq_len, c.data.batch_size = 64, 16
    c.model.depth = 2
    c.optimizer.learning_rate = 3e-3
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 100, 64
    return c


def sweep() -> Sweep:
    """Types of computation over three seeds."""
    arms = [{'name': name, **changes} for name, changes in ARMS.items()]
    return Sweep(arms, seeds=(0, 1, 2), baseline='bfloat16')
