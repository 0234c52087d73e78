"""How well does a T5 of base size sum up news? CNN/DailyMail (See et al. 2017).

    python launch.py --config=experiments/finetune/cnn_dailymail.py \
        --config.data.tokenizer='hf("t5-base/tokenizer.json")' --config.init_from.path=RUN

RUN is a run of pretrain/t5_base.py; without it the model starts from nothing. Articles are cut to
512 tokens and summaries to 128, and how many are is printed. Batch and constant rate are those of
Raffel et al. 2019, §3.1.2, the rate written for our Adafactor as in t5_base.py. Not run yet.
"""

from ml_collections import ConfigDict

from experiments import defaults
from experiments.pretrain import t5_base


def get_config(arg: str = '') -> ConfigDict:
    """Four epochs of 128 articles."""
    c = defaults.get_config()
    c.task = 'seq2seq(target_length=128)'
    c.data.source = 'tfds("cnn_dailymail")'
    c.data.format, c.data.packing = 'prompt("article", "highlights")', 'sides(truncate=True)'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 512, 128
    c.model = t5_base.get_config().model
    c.model.max_length, c.model.dropout = 512, 0.1
    c.optimizer.name = 'adafactor'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-3 / 768**0.5, 0.0
    c.optimizer.rates = (('inputs/.*', 768**0.5), ('.*', 1.0))
    c.schedule = 'constant'
    c.num_steps = 4 * 287_113 // 128
    c.init_from.path = ''  # a run of pretrain/t5_base.py
    c.evals.validation.every = 2000
    c.evals.test = defaults.evaluation('test', every=c.num_steps)
    return c
