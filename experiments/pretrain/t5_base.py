"""T5's base model on C4: the baseline of Raffel et al. 2019, as far as pre-training goes.

    python launch.py --config=experiments/pretrain/t5_base.py \
        --config.data.source='tfds("c4/en", text="text", data_dir="/data/tfds")' \
        --config.data.tokenizer='hf("t5-base/tokenizer.json")'

Hyperparameters follow §3.1: 2^19 steps of 2^16 tokens (128 rows whose source has 512), Adafactor at
the rate 0.01, after 10^4 steps 1/√step, dropout 0.1. Their Adafactor also multiplies a parameter's
rate by its RMS, ours does not: the rates here are those of the RMS at which matrices and the token
table start, and there is a warm-up. C4 must have been prepared by TFDS as array_record files. Not
trained by us yet: no loss is stated.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """Rows of 568 tokens become sources of 511 and targets of 114."""
    c = defaults.get_config()
    c.num_steps = 2**19
    c.task = 'span_corruption'
    c.data.source = 'tfds("c4/en", text="text")'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 568, 128
    c.model.size = 't5-base'
    c.model.vocab_size = 32_256  # 32,100 tokens and 100 sentinels, rounded up to a multiple of 64
    c.model.dropout = 0.1
    c.model.remat = 'dots_no_batch'
    c.optimizer.name = 'adafactor'
    c.optimizer.learning_rate = 1e-2 / 768**0.5
    c.optimizer.rates = (('inputs/.*', 768**0.5), ('.*', 1.0))
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip_norm = 0.0
    c.schedule = 'inverse_sqrt(warmup_steps=10_000)'
    c.evals.validation.every, c.evals.validation.batches = 10_000, 20
    c.checkpoint.every, c.checkpoint.keep_every = 5000, 50_000
    return c
