"""What does each memory policy leave on a chip of a model of 1.2B parameters, and what on its host?

    python launch.py plan --config=experiments/ablations/memory.py --sweep --topology=v5p:2x2x1

Of a v5p 53.7 GiB where everything is kept, 29.4 with products, 19.4 with attention alone, 17.4
where all is computed again; 15.2 with parameters and moments in bfloat16 too, 15.1 with moments on
the host. Compiled ahead of time on two cores, not run; README.md beside this folder has the table.
"""

from ml_collections import ConfigDict

from bigmodel.sweeps.arms import Sweep, chain
from experiments.pretrain import llama_1b

# What the backward pass finds, with everything in float32.
REMATS = {
    'none': 'none',
    'dots_no_batch': 'dots_no_batch',
    'save attention, ffn': 'save(names=("attention_out", "ffn_in"))',
    'save attention': 'save(names=("attention_out",))',
    'full': 'full',
    'offload': 'offload',
    'offload attention': 'offload(names=("block_input", "attention_out"))',
}
# What is kept between updates, with remat `full`.
STATES = {
    'moments bf16': {'optimizer.state_dtype': 'bfloat16'},
    'params bf16': {'model.param_dtype': 'bfloat16'},
    'both bf16': {'optimizer.state_dtype': 'bfloat16', 'model.param_dtype': 'bfloat16'},
    'moments on host': {'optimizer.offload': True},
    'params bf16, master on host': {
        'model.param_dtype': 'bfloat16',
        'optimizer.master': True,
        'optimizer.offload': True,
    },
}


def get_config(arg: str = '') -> ConfigDict:
    """The run of pretrain/llama_1b.py with 32 rows an update."""
    c = llama_1b.get_config(arg)
    c.data.batch_size = 32
    return c


def sweep() -> Sweep:
    """Every policy of recomputation, and with one of them every way to keep the state."""
    remats = [{'name': name, 'model.remat': spec} for name, spec in REMATS.items()]
    states = [{'name': name, 'model.remat': 'full', **keys} for name, keys in STATES.items()]
    return Sweep(chain(remats, states), baseline='full')
