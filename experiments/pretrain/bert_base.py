"""BERT-base on the English Wikipedia: the reference point of encoders.

    python launch.py --config=experiments/pretrain/bert_base.py \
        --config.data.tokenizer='hf("bert-base-uncased/tokenizer.json")'

TFDS prepares `wikipedia/20230601.en` with TensorFlow (pip install tensorflow-cpu) and must be able
to download it; `--config.data.source='tfds("c4/en")'` reads C4 instead. Hyperparameters follow
Devlin et al. 2018, appendix A.2. As in Liu et al. 2019, all rows have 512 tokens, masks are new
each time, and the next sentence is not predicted; the books of the original's corpus are missing.
A modern encoder (Warner et al. 2024) is `--config.model.position=rope --config.model.block=prenorm
--config.model.final_norm=layernorm --config.model.ffn='gated("gelu")'`.
Not trained by us yet: no loss is stated.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """131,072 tokens an update, in microbatches of 32 rows; a million updates."""
    c = defaults.get_config()
    c.task = 'masked_lm(rate=0.15, mask=0.8, random=0.1)'
    c.data.source = (
        'tfds("wikipedia/20230601.en", train="train[:99%]", '
        'validation="train[99%:]", test="train[99%:]")'
    )
    c.data.format = 'text("text")'  # without the title
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 512, 256
    c.accumulate = 8
    c.model.size = 'bert-base'
    c.model.vocab_size = 30_528  # 30,522 tokens and the mask, rounded up to a multiple of 64
    c.model.dropout = 0.1
    # Dropout of the attention weights, which no fused kernel serves.
    c.model.mixer = 'attention(bias=True, out_bias=True, dropout=0.1)'
    c.model.remat = 'dots_no_batch'
    c.optimizer.name = 'adamw(b1=0.9, b2=0.999, eps=1e-6)'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-4, 0.01
    # Tables are decayed too.
    c.optimizer.decay = (('.*/(scale|bias)$', 0.0), ('.*', 1.0))
    c.schedule = 'linear(warmup_steps=10000)'
    c.num_steps = 1_000_000
    c.evals.validation.every, c.evals.validation.batches = 10_000, 50
    c.checkpoint.every, c.checkpoint.keep_every = 5000, 100_000
    return c
