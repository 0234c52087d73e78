"""A Llama-shaped model of 1.2B parameters, fully sharded: the smallest run that needs a pod slice.

    python launch.py --config=experiments/pretrain/llama_1b.py \
        --config.data.path='corpus/*.jsonl' --config.data.tokenizer='hf("llama/tokenizer.json")'

Parameters and optimizer state are split over all devices (rules `fsdp`); the shape is that of
Llama 3.2 1B, the rates are those of Touvron et al. 2023, table 2, for 7B. Not trained by us yet: no
loss is stated.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """A million tokens an update; 26B tokens in all, about 20 for each parameter."""
    c = defaults.get_config()
    c.data.source = 'jsonl'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 2048, 512
    c.model.size = 'llama-1b'
    c.model.vocab_size = 128_256  # Llama 3's tokens
    c.model.remat = 'full'
    c.optimizer.name = 'adamw(b1=0.9, b2=0.95)'
    c.optimizer.learning_rate = 3e-4
    c.schedule = 'cosine(warmup_steps=2000, final=0.1)'
    c.num_steps = 25_000
    c.sharding.mesh, c.sharding.rules = 'fsdp=-1', 'fsdp'
    c.evals.validation.every, c.evals.validation.batches = 1000, 20
    c.checkpoint.every, c.checkpoint.keep_every = 1000, 5000
    return c
