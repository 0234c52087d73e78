"""GPT-2's small model on any text: the reference point of most public training codebases.

    python launch.py --config=experiments/pretrain/gpt2_124m.py \
        --config.data.path='corpus/*.txt' --config.data.tokenizer='hf("gpt2/tokenizer.json")'

Hyperparameters follow Brown et al. 2020, table 2.1, for 125M parameters: batches of 0.5M tokens, a
peak rate of 6e-4 decayed to a tenth by a cosine. Not trained by us yet: no loss is stated.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """Half a million tokens an update, in microbatches of 32 rows; 9.8B tokens in all."""
    c = defaults.get_config()
    c.data.source = 'text'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 1024, 480
    c.accumulate = 15
    c.model.size = 'gpt2-124m'
    c.model.vocab_size = 50_304  # GPT-2's 50,257 tokens, rounded up to a multiple of 64
    c.model.remat = 'dots_no_batch'
    c.optimizer.name = 'adamw(b1=0.9, b2=0.95)'
    c.optimizer.learning_rate = 6e-4
    c.schedule = 'cosine(warmup_steps=700, final=0.1)'
    c.num_steps = 20_000
    c.evals.validation.every, c.evals.validation.batches = 1000, 20
    c.checkpoint.every, c.checkpoint.keep_every = 1000, 10_000
    return c
