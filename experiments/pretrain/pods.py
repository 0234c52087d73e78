"""Models for pods: Llama 3 8B, 70B, 405B, Llama 2 70B and a DeepSeek-like mixture of experts.

    python launch.py plan --config=experiments/pretrain/pods.py:llama3-8b --topology=v5e:16x16

The batch is a row a chip of the pod that the size is planned for, of 405B half a row a chip of
v5p:8x16x16: `sequence` splits what is kept between layers, which each chip of `tensor` alone has
whole. Rates are those of Grattafiori et al. 2024, table 4. Planned, not trained: "Scale" in
experiments/README.md has what came out. The head has all logits at once, which is fastest where
they fit; with `--config.model.head='lm(tied=False, chunk=1024)'` larger batches do.
"""

from ml_collections import ConfigDict

from experiments import defaults

# Sequence length, rows, mesh, rules.
SIZES = {
    'llama3-8b': (8192, 256, 'fsdp=-1', 'fsdp'),
    'llama3-70b': (8192, 256, 'fsdp=-1', 'fsdp'),
    'llama3-405b': (8192, 1024, 'fsdp=-1,tensor=8', 'fsdp_sequence'),
    'llama2-70b': (4096, 1024, 'fsdp=-1', 'fsdp'),
    'deepseek-moe-16b': (4096, 256, 'fsdp=-1', 'fsdp'),
}


def get_config(arg: str = 'llama3-8b') -> ConfigDict:
    """A size by its name in bigmodel/models/presets.py."""
    size = arg or 'llama3-8b'
    c = defaults.get_config()
    c.name = f'pods-{size}'
    c.data.source = 'jsonl'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.model.size = size
    c.data.seq_len, c.data.batch_size, c.sharding.mesh, c.sharding.rules = SIZES[size]
    c.model.remat = 'full'
    c.optimizer.name = 'adamw(b1=0.9, b2=0.95)'
    c.optimizer.learning_rate = 3e-4 if size.endswith(('8b', '16b')) else 8e-5
    c.schedule = 'cosine(warmup_steps=8000, final=0.01)'
    c.num_steps = 1_000_000
    c.evals.validation.every, c.evals.validation.batches = 1000, 20
    return c
