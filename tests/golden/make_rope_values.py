"""Makes rope_values.npz again: the rotations of Hugging Face for the tests to hold us to.

Made with torch 2.13.0 and transformers 5.23.0; the tests read the file and need neither.

    python tests/golden/make_rope_values.py

Each case is a spec of `POSITIONS`, the inverse frequencies and attention factor of
`ROPE_INIT_FUNCTIONS` for it, and what `apply_rotary_pos_emb` makes of `x` with them.
"""

import json
import pathlib

import numpy as np
import torch
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as apply_interleaved
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

HEAD_DIM, LENGTH = 32, 256
# Spec -> Hugging Face's parameters; the row has LENGTH tokens.
CASES = {
    'rope(scaling="linear", factor=4)': {'rope_type': 'linear', 'factor': 4.0},
    # Static NTK is the dynamic one with factor 1 at a row that is `factor` times too long.
    'rope(scaling="ntk", factor=4)': {'rope_type': 'dynamic', 'factor': 1.0, 'original': 64},
    'rope(scaling="dynamic_ntk", factor=2, original_length=64)': {
        'rope_type': 'dynamic',
        'factor': 2.0,
        'original': 64,
    },
    'rope(scaling="dynamic_ntk", factor=2, original_length=512)': {
        'rope_type': 'dynamic',
        'factor': 2.0,
        'original': 512,
    },
    'rope(theta=5e5, scaling="llama3", factor=8, original_length=128)': {
        'rope_type': 'llama3',
        'rope_theta': 5e5,
        'factor': 8.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original': 128,
    },
    'rope(scaling="yarn", factor=4, original_length=4096)': {
        'rope_type': 'yarn',
        'factor': 4.0,
        'original': 4096,
    },
    'rope(scaling="yarn", factor=4, original_length=64, beta_fast=8, attention_factor=1.5)': {
        'rope_type': 'yarn',
        'factor': 4.0,
        'original': 64,
        'beta_fast': 8.0,
        'attention_factor': 1.5,
    },
}
values: dict[str, np.ndarray] = {}
rng = np.random.default_rng(0)
x = torch.tensor(rng.standard_normal((1, 5, 3, HEAD_DIM)), dtype=torch.float32)
pos = torch.tensor([[0, 1, 7, 100, LENGTH - 1]])


def scaled(case: dict) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Frequencies and factor, and x rotated with them."""
    case = {'rope_theta': 1e4} | case
    original = case.pop('original', 4096)
    if case['rope_type'] != 'dynamic':
        case['original_max_position_embeddings'] = original
    config = LlamaConfig(
        hidden_size=3 * HEAD_DIM,
        num_attention_heads=3,
        head_dim=HEAD_DIM,
        max_position_embeddings=original,
        rope_parameters=case,
    )
    init = ROPE_INIT_FUNCTIONS[case['rope_type']]
    frequency, factor = init(config, torch.device('cpu'), seq_len=LENGTH)
    cos, sin = LlamaRotaryEmbedding(config)(x, pos)
    rotated, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
    return frequency, factor, rotated.transpose(1, 2)


def partial() -> torch.Tensor:
    """A quarter of the features, as GPT-NeoX rotates."""
    config = GPTNeoXConfig(
        hidden_size=3 * HEAD_DIM,
        num_attention_heads=3,
        rope_parameters={
            'rope_type': 'default',
            'rope_theta': 1e4,
            'partial_rotary_factor': 0.25,
        },
    )
    cos, sin = gpt_neox.GPTNeoXRotaryEmbedding(config)(x, pos)
    assert cos.shape[-1] == HEAD_DIM // 4
    heads = x.transpose(1, 2)
    return gpt_neox.apply_rotary_pos_emb(heads, heads, cos, sin)[0].transpose(1, 2)


def interleaved() -> torch.Tensor:
    """Pairs of neighbours, as GPT-J rotates."""
    frequency = 1e4 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = pos[..., None] * frequency
    return apply_interleaved(x, torch.sin(angle), torch.cos(angle))


def main() -> None:
    values.update(x=x.numpy(), pos=pos.numpy(), length=np.asarray(LENGTH))
    values['specs'] = np.asarray(json.dumps(list(CASES)))
    for i, case in enumerate(CASES.values()):
        frequency, factor, rotated = scaled(case)
        values[f'{i}/frequency'] = frequency.numpy()
        values[f'{i}/factor'] = np.asarray(factor, np.float32)
        values[f'{i}/rotated'] = rotated.numpy()
    values['partial'], values['interleaved'] = partial().numpy(), interleaved().numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name('rope_values.npz'), **values)


if __name__ == '__main__':
    main()
