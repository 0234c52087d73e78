"""How well does a pre-trained encoder find answers? SQuAD 1.1, and 2.0 with questions without one.

    python launch.py --config=experiments/finetune/squad.py:v1.1 \
        --config.data.tokenizer='hf("bert-base-uncased/tokenizer.json")' --config.init_from.path=RUN

RUN is a run of pretrain/bert_base.py, without which the encoder starts from nothing; `:v2.0` alike.
Rate, batch, length and windows of longer contexts follow Devlin et al. 2018, §4.2, and their code:
windows begin every 128 tokens, those without the answer are learned as having none, and the best
span over all windows of a question wins. Scores are those of SQuAD's script. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments import defaults

ROWS = {'v1.1': 87_599, 'v2.0': 130_319}


def get_config(arg: str = '') -> ConfigDict:
    """Three epochs of 32 questions on the version that `arg` names (v1.1)."""
    version = arg or 'v1.1'
    if version not in ROWS:
        raise UserError(f'squad.py:{version}: the versions are {", ".join(ROWS)}')
    c = defaults.get_config()
    c.name = f'squad-{version}'
    c.task = 'extractive_qa'
    c.data.source = (
        f'tfds("squad/{version}", train="train[:98%]", validation="train[98%:]", test="validation")'
    )
    unanswerable = ', unanswerable=True' if version == 'v2.0' else ''
    c.data.format = (
        f'span("question", "context", "answers.text", "answers.answer_start"{unanswerable})'
    )
    c.data.packing = 'strided(stride=128)'
    c.data.tokenizer = 'hf("tokenizer.json")'
    c.data.seq_len, c.data.batch_size = 384, 32
    c.model.size = 'bert-base'
    c.model.vocab_size = 30_528  # as of pretrain/bert_base.py
    c.model.max_length = 512
    c.model.head = 'span'
    c.model.dropout = 0.1
    c.optimizer.name = 'adamw(b1=0.9, b2=0.999, eps=1e-6)'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-5, 0.01
    c.num_steps = 3 * ROWS[version] // 32
    c.schedule = f'linear(warmup_steps={c.num_steps // 10})'
    c.init_from.path = ''  # a run of pretrain/bert_base.py
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every, c.evals.validation.batches = c.num_steps // 3, 0
    c.evals.validation.scores = ('f1', 'exact_match')
    c.evals.test = defaults.evaluation('test', every=c.num_steps)
    c.evals.test.scores = ('f1', 'exact_match')
    return c
