"""How does the loss of small decoders of Python fall with their size and with the tokens they read?

    python launch.py sweep --config=experiments/ablations/scaling.py
    python launch.py scaling runs/scaling

Not run yet. Five widths at each of four numbers of training FLOPs, so that there are iso-FLOP
profiles as well as points of the parametric law; every run has a schedule of its own length.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep
from experiments import defaults

WIDTHS = (32, 64, 96, 128, 192)
FLOPS = (3e11, 6e11, 1.2e12, 2.4e12)
HEAD_DIM, DEPTH, VOCABULARY = 32, 3, 320
SEQ_LEN, BATCH = 128, 16


def get_config(arg: str = '') -> ConfigDict:
    """Three layers on rows of 128 bytes; `sweep` sets the width and the number of steps."""
    c = defaults.get_config()
    c.data.seq_len, c.data.batch_size = SEQ_LEN, BATCH
    c.model.depth = DEPTH
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=20)'
    c.evals.validation.every, c.evals.validation.batches = 10_000, 64
    return c


def sweep() -> Sweep:
    """Widths × FLOPs; a name is the width and the budget."""
    arms = [
        {
            'name': f'{width}-{flops:.1e}',
            'model.width': width,
            'model.num_heads': width // HEAD_DIM,
            'num_steps': round(flops / (BATCH * SEQ_LEN * flops_per_token(width))),
        }
        for width in WIDTHS
        for flops in FLOPS
    ]
    return Sweep(arms)


def flops_per_token(width: int) -> int:
    """6 a weight and 12 a feature of each query–key pair, as `launch.py show` counts them."""
    weights = DEPTH * 12 * width**2 + VOCABULARY * width
    return 6 * weights + 12 * DEPTH * width * SEQ_LEN
