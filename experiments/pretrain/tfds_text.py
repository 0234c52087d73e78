"""GPT-2's smallest size on public text: c4, lm1b or wikipedia.

    python launch.py --config=experiments/pretrain/tfds_text.py:c4 \
        --config.data.tokenizer='hf("gpt2/tokenizer.json")'

Each is a line of `TEXTS`. TFDS prepares them with TensorFlow (pip install tensorflow-cpu) and must
be able to download them; reading needs none. Hyperparameters are those of gpt2_124m.py. Not run
yet.
"""

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments.pretrain import gpt2_124m

ENDS = 'train="train[:99%]", validation="train[99%:]", test="train[99%:]"'
TEXTS = {
    'c4': 'tfds("c4/en", test="validation")',  # Raffel et al. 2019, §2.2
    'lm1b': 'tfds("lm1b", train="train[:99%]", validation="train[99%:]")',  # Chelba et al. 2013
    'wikipedia': f'tfds("wikipedia/20230601.en", {ENDS})',
}


def get_config(arg: str = '') -> ConfigDict:
    """The text that `arg` names (c4), without titles and addresses."""
    name = arg or 'c4'
    if name not in TEXTS:
        raise UserError(f'tfds_text.py:{name}: the texts are {", ".join(TEXTS)}')
    c = gpt2_124m.get_config()
    c.name = f'tfds_text-{name}'
    c.data.source, c.data.format = TEXTS[name], 'text("text")'
    return c
