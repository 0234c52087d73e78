"""Does a student learn from what its teacher says of text without labels?

    python launch.py --config=experiments/quickstart_finetune.py --workdir=runs/teacher
    python launch.py label --workdir=runs/teacher --output=runs/pseudo_labels.jsonl \
        --threshold=0.5 --split=test --config.data.packing='pad(truncate=True)'
    python launch.py --config=experiments/finetune/pseudo_labels.py
    python launch.py evaluate --workdir=runs/pseudo_labels --config.data.source=pystdlib \
        --config.data.format=text

Pseudo-labels (Lee 2013), on which a student with noise trains (Xie et al. 2020): the teacher names
the group of modules of which it is sure, here of the test split, whose own labels are not read. The
student has the teacher's shape, and dropout; the last command is of the true labels. Not run yet.
"""

from ml_collections import ConfigDict

from experiments import quickstart_finetune

# In the order of their numbers, as `label` prints them.
CLASSES = (
    'concurrency',
    'mail',
    'web',
    'formats',
    'text',
    'idle',
    'gui',
    'packaging',
    'debugging',
    'compilers',
    'numbers',
    'files',
    'library',
    'reference',
)


def get_config(arg: str = '') -> ConfigDict:
    """The teacher's run on the pseudo-labels alone, from the quickstart."""
    c = quickstart_finetune.get_config()
    c.data.source = 'jsonl(validation=0.1)'
    c.data.path = 'runs/pseudo_labels.jsonl'
    c.data.format = f'text(label="label", classes={CLASSES!r})'
    c.model.dropout = 0.1
    return c
