"""ViT-S/16 on ImageNet-1k with 90 epochs of plain training: the reference point of plain ViTs.

    python launch.py --config=experiments/pretrain/vit_s16_imagenet.py

Reads TFDS's imagenet2012, prepared as array_record files (TFDS says which archives it needs and
where to put them). Batch, rate, decay and length are those of Beyer et al. 2022, who surpass 76 %
with pooled patches, RandAugment, MixUp and crops of random size, which are not here: this card
shifts and mirrors images of 224 pixels. Not trained by us yet: no accuracy is stated.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """1,024 images an update; the last hundredth of the training images is for validation."""
    c = defaults.get_config()
    c.task = 'classification(shift=16, flip=True)'
    c.data.source = (
        'tfds_images("imagenet2012", image="image", label="label", size=224, '
        'train="train[:99%]", validation="train[99%:]", test="validation")'
    )
    c.data.seq_len, c.data.batch_size = 197, 1024  # 14×14 patches and the class token
    c.model.size = 'vit-s16'
    c.model.remat = 'dots_no_batch'
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.1  # times the rate: 1e-4
    c.schedule = 'cosine(warmup_steps=10_000)'
    c.num_steps = 90 * 1_268_355 // 1024
    c.evals.validation.every = 5000
    c.evals.test = defaults.evaluation('test', every=20_000)
    c.checkpoint.every, c.checkpoint.keep_every = 1000, 20_000
    return c
