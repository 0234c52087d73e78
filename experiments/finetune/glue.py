"""How well does a pre-trained encoder read? GLUE's tasks, and two larger sets of the same shape.

    python launch.py --config=experiments/finetune/glue.py:sst2 \
        --config.data.tokenizer='hf("bert-base-uncased/tokenizer.json")' --config.init_from.path=RUN

Tasks: cola sst2 mrpc qqp stsb mnli qnli rte wnli (Wang et al. 2018), imdb (Maas et al. 2011) and
ag_news (Zhang et al. 2015), each a line of `TASKS` that maps the features of a TFDS data set. TFDS
prepares GLUE with TensorFlow (pip install tensorflow-cpu); reading it needs none. RUN is a run of
pretrain/bert_base.py, whose tokenizer and sizes these are; without it the encoder starts from
nothing. Rates and length follow Devlin et al. 2018, §4.1. Not run yet.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments import defaults

ENDS = 'train="train[:95%]", validation="train[95%:]", test="test"'
HALVES = 'validation="validation_matched", test="validation_mismatched"'


class Labelled(NamedTuple):
    """A data set of labelled texts or pairs: TFDS's name, its splits, the format, its size."""

    dataset: str
    format: str
    rows: int  # of training
    splits: str = 'test="validation"'  # GLUE's own test labels are not public
    task: str = 'classification'
    head: str = 'classifier(pool="first")'
    seq_len: int = 128


TASKS = {
    'cola': Labelled('glue/cola', 'text("sentence", label="label")', 8_551),
    'sst2': Labelled('glue/sst2', 'text("sentence", label="label")', 67_349),
    'mrpc': Labelled('glue/mrpc', 'pair("sentence1", "sentence2")', 3_668),
    'qqp': Labelled('glue/qqp', 'pair("question1", "question2")', 363_846),
    'stsb': Labelled(
        'glue/stsb',
        'score("sentence1", "sentence2", score="label")',
        5_749,
        task='regression',
        head='regressor(pool="first")',
    ),
    'mnli': Labelled('glue/mnli', 'pair("premise", "hypothesis")', 392_702, HALVES),
    'qnli': Labelled('glue/qnli', 'pair("question", "sentence")', 104_743),
    'rte': Labelled('glue/rte', 'pair("sentence1", "sentence2")', 2_490),
    'wnli': Labelled('glue/wnli', 'pair("sentence1", "sentence2")', 635),
    'imdb': Labelled(
        'imdb_reviews/plain_text', 'text("text", label="label")', 23_750, ENDS, seq_len=512
    ),
    'ag_news': Labelled(
        'ag_news_subset', 'text(("title", "description"), label="label")', 114_000, ENDS
    ),
}


def get_config(arg: str = '') -> ConfigDict:
    """Three epochs of 32 rows on the task that `arg` names (sst2)."""
    name = arg or 'sst2'
    if name not in TASKS:
        raise UserError(f'glue.py:{name}: the tasks are {", ".join(TASKS)}')
    data = TASKS[name]
    c = defaults.get_config()
    c.name = f'glue-{name}'
    c.task = data.task
    c.data.source = f'tfds("{data.dataset}", {data.splits})'
    c.data.format, c.data.packing = data.format, 'pad(truncate=True)'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = data.seq_len, 32
    c.model.size = 'bert-base'
    c.model.vocab_size = 30_528  # as of pretrain/bert_base.py
    c.model.max_length = 512
    c.model.head = data.head
    c.model.dropout = 0.1
    c.optimizer.name = 'adamw(b1=0.9, b2=0.999, eps=1e-6)'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 3e-5, 0.01
    c.num_steps = 3 * data.rows // 32
    c.schedule = f'linear(warmup_steps={c.num_steps // 10})'
    c.init_from.path = ''  # a run of pretrain/bert_base.py
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every = max(c.num_steps // 3, 1)
    c.evals.test = defaults.evaluation('test', every=c.num_steps)
    return c
