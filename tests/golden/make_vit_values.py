"""Makes vit_values.npz again: a small random ViT of Hugging Face, with its input and output.

Made with torch 2.13.0 and transformers 5.23.0; the tests read the file and need neither.

    python tests/golden/make_vit_values.py

Parameters and pixels are values that float32 holds exactly; the model computes in float64, so that
tolerances only have to cover this package's own rounding.
"""

import pathlib

import numpy as np
import torch
import transformers
from transformers import ViTConfig, ViTForImageClassification, ViTModel

# Images of 8×12 pixels, so that a mistaken order of rows and columns shows.
SHAPE = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 4}
REST = {'intermediate_size': 64, 'image_size': (8, 12), 'patch_size': 4, 'layer_norm_eps': 1e-6}
# The published models with 1,000 labels: name -> width, hidden, heads.
SIZES = {'vit-s16': (384, 1536, 6), 'vit-b16': (768, 3072, 12)}


def parameters(width: int, hidden: int, heads: int) -> int:
    """How many parameters Hugging Face's model of this shape has."""
    config = ViTConfig(
        hidden_size=width, intermediate_size=hidden, num_attention_heads=heads, num_labels=1000
    )
    with torch.device('meta'):
        return ViTForImageClassification(config).num_parameters()


if __name__ == '__main__':
    rng = np.random.default_rng(0)
    model = ViTModel(ViTConfig(**SHAPE, **REST), add_pooling_layer=False).double().eval()
    values = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = (0.3 * rng.standard_normal(parameter.shape)).astype(np.float32)
            drawn += np.float32('layernorm' in name and name.endswith('weight'))
            parameter.copy_(torch.tensor(drawn))
            values[f'params/{name}'] = drawn
        pixels = rng.standard_normal((2, 3, 8, 12)).astype(np.float32)
        states = model(torch.tensor(pixels).double()).last_hidden_state
    values |= {'pixels': pixels, 'last_hidden_state': states.numpy().astype(np.float32)}
    counts = {name: parameters(*size) for name, size in SIZES.items()}
    values |= {f'count/{name}': np.array(count) for name, count in counts.items()}
    path = pathlib.Path(__file__).with_name('vit_values.npz')
    np.savez_compressed(path, **values)
    print(f'{len(values)} arrays, {path.stat().st_size:,} bytes, {counts}')
    print(f'torch {torch.__version__}, transformers {transformers.__version__}')
