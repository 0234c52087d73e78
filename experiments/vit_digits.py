"""What does a ViT need to know of where its patches are?

    python launch.py --config=experiments/vit_digits.py
    python launch.py --config=experiments/vit_digits.py --config.model.position='rope_2d(columns=4)'

A small ViT on scikit-learn's 8×8 digits, of which 1,257 train it. Accuracy on the 360 digits of the
test split, mean and standard deviation over seeds 0 to 2 (one host device): learned positions 0.947
± 0.003, learned_2d 0.955 ± 0.009, sinusoidal_2d 0.944 ± 0.019, rope_2d 0.927 ± 0.009, and 0.516 ±
0.020 with none: a bag of patches. The first three are too close for three seeds to tell apart. On
two shared, busy CPU cores, 25 to 103 s a run.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """A ViT of 4 layers on the 4×4 patches of scikit-learn's digits, moved by up to a pixel."""
    c = defaults.get_config()
    c.task = 'classification(shift=1)'
    c.num_steps = 300
    c.data.source = 'digits'
    c.data.seq_len, c.data.batch_size = 17, 64  # 16 patches and the class token
    c.model.size = 'vit-s16'
    c.model.inputs = 'patches(size=2, channels=1, class_token=True)'
    c.model.depth, c.model.width, c.model.num_heads = 4, 64, 4
    c.model.init = 'fan_in(embed=0.2)'  # positions and the class token, beside patches of size 1
    c.optimizer.name = 'muon'
    c.optimizer.learning_rate = 1e-2
    c.schedule = 'cosine(warmup_steps=30)'
    c.evals.validation.every = 100
    c.evals.test = defaults.evaluation('test', every=300)
    return c
