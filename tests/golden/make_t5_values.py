"""Makes t5_values.npz again: logits of Hugging Face's T5 with small random weights.

Made with torch 2.13.0 and transformers 5.23.0; the tests read the file and need neither.

    python tests/golden/make_t5_values.py

Weights are rounded to float32 and everything is computed in float64.
"""

import pathlib

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

SHAPE = {
    'vocab_size': 24,
    'd_model': 12,
    'd_kv': 4,
    'd_ff': 20,
    'num_heads': 2,
    'num_layers': 2,
    'num_decoder_layers': 3,
    'relative_attention_num_buckets': 8,
    'relative_attention_max_distance': 10,
}
# The preset of our own that has this shape -> what differs.
VERSIONS = {
    't5-base': {'feed_forward_proj': 'relu', 'tie_word_embeddings': True},
    't5-v1_1-base': {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
}
SOURCE_LENGTHS, LENGTH = (16, 11), 9


def main() -> None:
    """Writes the parameters by their names, a padded source, tokens and logits."""
    rng, values = np.random.default_rng(0), {}
    source = rng.integers(0, SHAPE['vocab_size'], (2, max(SOURCE_LENGTHS)))
    there = np.arange(source.shape[1]) < np.array(SOURCE_LENGTHS)[:, None]
    tokens = rng.integers(0, SHAPE['vocab_size'], (2, LENGTH))
    for version, differences in VERSIONS.items():
        config = T5Config(**SHAPE, **differences)
        # This release constructs every config as tied; untied, it also parts the two inputs.
        config.tie_word_embeddings = differences['tie_word_embeddings']
        model = T5ForConditionalGeneration(config).double().eval()
        model.set_input_embeddings(model.shared)
        names = dict(model.named_parameters())
        with torch.no_grad():
            for name, p in names.items():
                x = rng.standard_normal(p.shape)
                x = 1 + 0.2 * x if 'layer_norm' in name else x
                if p.ndim == 2 and 'relative' not in name and 'shared' not in name:
                    x /= np.sqrt(p.shape[1])
                p.copy_(torch.tensor(x.astype(np.float32).astype(np.float64)))
            logits = model(
                input_ids=torch.tensor(source),
                attention_mask=torch.tensor(there.astype(np.int64)),
                decoder_input_ids=torch.tensor(tokens),
            ).logits
        parameters = {k: v.detach().numpy().astype(np.float32) for k, v in names.items()}
        values |= {f'{version}/{k}': v for k, v in parameters.items()}
        values[f'{version}/logits'] = logits.numpy().astype(np.float32)
    values |= {'source': source, 'segments': there.astype(np.int32), 'tokens': tokens}
    path = pathlib.Path(__file__).with_name('t5_values.npz')
    np.savez_compressed(path, **values)
    print(f'{len(values)} arrays, {path.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
