"""Does this code reach the loss of nanoGPT's CPU configuration on Shakespeare's characters?

python launch.py --config=experiments/pretrain/shakespeare_char.py --config.data.path=input.txt

`input.txt` is the 1.1 MB tiny Shakespeare, of 65 characters; its last tenth is the validation set.
Where TensorFlow Datasets can download, `--config.data.source='tfds("tiny_shakespeare")'` fetches
it instead of a path. The shape, the optimizer and the 2,000 steps are those that nanoGPT's README
gives for a laptop, where it reports a validation loss of 1.88 (of 20 random batches). Measured over
the whole validation split, seeds 0 to 2, 85 s each on two shared CPU cores: 1.900, 1.904, 1.910.
nanoGPT itself, trained and evaluated in the same way on the same machine: 1.907, 1.914, 1.908.
"""

from ml_collections import ConfigDict

from experiments import defaults


def get_config(arg: str = '') -> ConfigDict:
    """A GPT-2 of 4 layers without biases, on rows of 64 characters without document borders."""
    c = defaults.get_config()
    c.num_steps = 2000
    c.data.source, c.data.tokenizer = 'text', 'chars'
    c.data.packing = 'stream(segments=False)'
    c.data.seq_len, c.data.batch_size = 64, 12

    c.model.size = 'gpt2-124m'
    c.model.depth, c.model.width, c.model.num_heads = 4, 128, 4
    c.model.vocab_size = 65
    c.model.norm = 'layernorm(bias=False)'
    c.model.mixer = 'attention(fused_qkv=True)'
    c.model.ffn = 'mlp(activation="gelu")'

    c.optimizer.name = 'adamw(b2=0.99)'
    c.optimizer.learning_rate = 1e-3
    # As nanoGPT, which decays every matrix, tables too.
    c.optimizer.decay = (('.*/scale$', 0.0), ('.*', 1.0))
    c.schedule = 'cosine(warmup_steps=100, final=0.1)'
    c.evals.validation = defaults.evaluation('validation', every=250)
    return c
