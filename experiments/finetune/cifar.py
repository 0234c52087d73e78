"""How well does a small ViT that is trained from nothing name the 32×32 images of CIFAR?

    python launch.py --config=experiments/finetune/cifar.py:cifar10
    python launch.py --config=experiments/finetune/cifar.py:cifar100

Patches of 4×4 pixels, images moved by up to 4 pixels and mirrored (as Lee et al. 2015). To start
from a run with the same patches, set init_from.path; the head is new. Not run yet.
"""

from ml_collections import ConfigDict

from bigmodel.errors import UserError
from experiments import defaults

SETS = ('cifar10', 'cifar100')


def get_config(arg: str = '') -> ConfigDict:
    """100 epochs of 128 images of the set that `arg` names (cifar10)."""
    name = arg or 'cifar10'
    if name not in SETS:
        raise UserError(f'cifar.py:{name}: the sets are {", ".join(SETS)}')
    c = defaults.get_config()
    c.name = f'cifar-{name}'
    c.task = 'classification(shift=4, flip=True, label_smoothing=0.1)'
    c.data.source = (
        f'tfds_images("{name}", image="image", label="label", '
        f'train="train[:98%]", validation="train[98%:]")'
    )
    c.data.seq_len, c.data.batch_size = 65, 128  # 8×8 patches and the class token
    c.model.size = 'vit-s16'
    c.model.inputs = 'patches(size=4, channels=3, class_token=True)'
    c.model.depth, c.model.width, c.model.num_heads = 6, 256, 4
    c.optimizer.weight_decay = 0.1
    c.schedule = 'cosine(warmup_steps=2000)'
    c.num_steps = 100 * 49_000 // 128
    c.init_from.restore = (('(adapter|prompt|head)/.*', False), ('.*', True))
    c.evals.validation.every = 1000
    c.evals.test = defaults.evaluation('test', every=c.num_steps)
    return c
