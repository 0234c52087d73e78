"""Does hiding whole words instead of single bytes help a masked LM's encoder?

    python launch.py --config=experiments/pretrain/whole_words.py

Not run yet. The same budget and model as `masked_lm.py`, so its encoder can take the place of that
one in `finetune/masked_lm_labels.py` (`--config.init_from.path=runs/whole_words`). The losses of
the two do not compare: a hidden word is harder to name than a hidden byte of a word.
"""

from ml_collections import ConfigDict

from experiments.pretrain import masked_lm


def get_config(arg: str = '') -> ConfigDict:
    """`masked_lm.py`, with words of letters and digits chosen as a whole."""
    c = masked_lm.get_config()
    c.task = 'masked_lm(whole_words=True)'
    return c
