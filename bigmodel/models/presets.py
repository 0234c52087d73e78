"""Sizes: `model.size` names a row; every entry of the row can be overridden in the run card."""

from typing import Any

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown

_LLAMA = {
    'inputs': 'tokens',
    'mask': 'causal',
    'embed_norm': 'none',
    'position': 'rope',
    'norm': 'rmsnorm(eps=1e-5)',
    'ffn': 'gated',
    'mixer': 'attention',
    'block': 'prenorm',
    'head': 'lm(tied=False)',
    'init': 'fan_in',
}
_LLAMA3 = {
    **_LLAMA,
    'position': 'rope(theta=500000.0)',
    'num_kv_heads': 8,
    'vocab_size': 128256,
}
_GPT2 = {
    'inputs': 'tokens',
    'mask': 'causal',
    'embed_norm': 'none',
    'position': 'learned',
    'norm': 'layernorm',
    'ffn': 'mlp(activation="gelu_tanh", bias=True)',
    'mixer': 'attention(bias=True, out_bias=True)',
    'block': 'prenorm',
    'head': 'lm(tied=True)',
    'init': 'gpt2',
}
# Devlin et al. 2018, without the embedding of a token's sentence (A or B): with one sentence a row,
# as in Liu et al. 2019, it is a constant that the position table can hold.
_BERT = {
    'inputs': 'tokens',
    'mask': 'full',
    'embed_norm': 'layernorm(eps=1e-12)',
    'position': 'learned',
    'max_length': 512,
    'norm': 'layernorm(eps=1e-12)',
    'final_norm': 'none',
    'ffn': 'mlp(activation="gelu", bias=True)',
    'mixer': 'attention(bias=True, out_bias=True)',
    'block': 'postnorm',
    'head': 'mlm(tied=True)',
    'init': 'normal',
}

_VIT = {
    'inputs': 'patches(size=16, channels=3, class_token=True)',
    'mask': 'full',
    'embed_norm': 'none',
    'position': 'learned',
    'norm': 'layernorm(eps=1e-6)',
    'ffn': 'mlp(activation="gelu", bias=True)',
    'mixer': 'attention(bias=True, out_bias=True)',
    'block': 'prenorm',
    'head': 'classifier(pool="first")',
    'init': 'fan_in',
}
# Raffel et al. 2019, §2.1, whose attention does not divide by √d_k: here the queries of its
# checkpoints are multiplied by √d_k instead. Each stack has a table of biases of its own.
_T5 = {
    'inputs': 'tokens',
    'mask': 'causal',
    'cross': 'attention',
    'embed_norm': 'none',
    'position': 't5(num_buckets=32, max_distance=128)',
    'norm': 'rmsnorm(eps=1e-6)',
    'ffn': 'mlp(activation="relu")',
    'mixer': 'attention',
    'block': 'prenorm',
    'head': 'lm(tied=True, scale=True)',
    'init': 'fan_in(embed=1.0)',
}

# depth, width, heads, kv heads; hidden sizes are in the ffn spec where they are not the default.
PRESETS: dict[str, dict[str, Any]] = {
    # Rows of our own for laptops, Llama-shaped; `tiny` has about a million parameters on bytes.
    'tiny': {**_LLAMA, 'depth': 4, 'width': 128, 'num_heads': 4, 'head': 'lm(tied=True)'},
    'mini': {**_LLAMA, 'depth': 6, 'width': 256, 'num_heads': 8, 'head': 'lm(tied=True)'},
    'small': {**_LLAMA, 'depth': 8, 'width': 512, 'num_heads': 8, 'head': 'lm(tied=True)'},
    # Radford et al. 2019, table 2.
    'gpt2-124m': {**_GPT2, 'depth': 12, 'width': 768, 'num_heads': 12},
    'gpt2-355m': {**_GPT2, 'depth': 24, 'width': 1024, 'num_heads': 16},
    'gpt2-774m': {**_GPT2, 'depth': 36, 'width': 1280, 'num_heads': 20},
    'gpt2-1558m': {**_GPT2, 'depth': 48, 'width': 1600, 'num_heads': 25},
    # Devlin et al. 2018, §3.
    'bert-base': {**_BERT, 'depth': 12, 'width': 768, 'num_heads': 12},
    'bert-large': {**_BERT, 'depth': 24, 'width': 1024, 'num_heads': 16},
    # Raffel et al. 2019, §3.1.1 and §3.7; v1.1 are later checkpoints, gated as in Shazeer 2020.
    't5-small': {**_T5, 'depth': 6, 'encoder_depth': 6, 'width': 512, 'num_heads': 8},
    't5-base': {**_T5, 'depth': 12, 'encoder_depth': 12, 'width': 768, 'num_heads': 12},
    't5-v1_1-base': {
        **_T5,
        'depth': 12,
        'encoder_depth': 12,
        'width': 768,
        'num_heads': 12,
        'ffn': 'gated(activation="gelu_tanh", hidden=2048)',
        'head': 'lm(tied=False)',
    },
    # The shape of Llama 3.2 1B: wide heads shared by 4 queries, tied head.
    'llama-1b': {
        **_LLAMA,
        'depth': 16,
        'width': 2048,
        'num_heads': 32,
        'num_kv_heads': 8,
        'position': 'rope(theta=500000.0)',
        'ffn': 'gated(hidden=8192)',
        'head': 'lm(tied=True)',
    },
    # Touvron et al. 2023, table 2 (Llama 7B).
    'llama-7b': {
        **_LLAMA,
        'depth': 32,
        'width': 4096,
        'num_heads': 32,
        'ffn': 'gated(hidden=11008)',
    },
    # Grattafiori et al. 2024, table 3 (Llama 3), with the table of their tokenizer's ids.
    'llama3-8b': {
        **_LLAMA3,
        'depth': 32,
        'width': 4096,
        'num_heads': 32,
        'ffn': 'gated(hidden=14336)',
    },
    'llama3-70b': {
        **_LLAMA3,
        'depth': 80,
        'width': 8192,
        'num_heads': 64,
        'ffn': 'gated(hidden=28672)',
    },
    'llama3-405b': {
        **_LLAMA3,
        'depth': 126,
        'width': 16384,
        'num_heads': 128,
        'ffn': 'gated(hidden=53248)',
    },
    # Touvron et al. 2023b (Llama 2 70B).
    'llama2-70b': {
        **_LLAMA3,
        'depth': 80,
        'width': 8192,
        'num_heads': 64,
        'position': 'rope',
        'ffn': 'gated(hidden=28672)',
        'vocab_size': 32000,
    },
    # Dai et al. 2024, §4 and table 3 (DeepSeekMoE 16B), but the first layer, dense there, is like
    # the others.
    'deepseek-moe-16b': {
        **_LLAMA,
        'depth': 28,
        'width': 2048,
        'num_heads': 16,
        'ffn': 'moe(experts=64, top_k=6, shared=2, hidden=1408)',
        'vocab_size': 102400,
    },
    # Touvron et al. 2020 (DeiT-S) and Dosovitskiy et al. 2020, table 1: with data.seq_len=197 for
    # images of 224 pixels.
    'vit-s16': {**_VIT, 'depth': 12, 'width': 384, 'num_heads': 6},
    'vit-b16': {**_VIT, 'depth': 12, 'width': 768, 'num_heads': 12},
}


def resolve(model: ConfigDict, seq_len: int) -> None:
    """Fills, in place, every entry that the run card left at 0 or '' with its size's.

    `head_dim` becomes width/num_heads, `num_kv_heads` num_heads, `final_norm` norm, `max_length`
    the sequence length.
    Raises UserError for an unknown size or a shape that cannot be.
    """
    if model.size not in PRESETS:
        raise unknown('model.size', model.size, PRESETS)
    for key, value in PRESETS[model.size].items():
        if not model[key]:
            model[key] = value
    model.num_kv_heads = model.num_kv_heads or model.num_heads
    model.max_length = model.max_length or seq_len
    model.final_norm = model.final_norm or model.norm
    for key in (
        'depth',
        'encoder_depth',
        'width',
        'num_heads',
        'num_kv_heads',
        'head_dim',
        'vocab_size',
    ):
        if model[key] < 0:
            raise UserError(f'model.{key} must not be negative, got {model[key]}')
    if model.max_length < seq_len:
        raise UserError(
            f'data.seq_len={seq_len} is longer than model.max_length={model.max_length}'
        )
    if model.unroll < 0:
        raise UserError(f'model.unroll={model.unroll} must not be negative (0: chosen)')
    if not model.head_dim:
        if model.width % model.num_heads:
            raise UserError(
                f'model.width={model.width} is not a multiple of model.num_heads='
                f'{model.num_heads}; change one of them, or set model.head_dim'
            )
        model.head_dim = model.width // model.num_heads
    if model.num_heads % model.num_kv_heads:
        raise UserError(
            f'model.num_kv_heads={model.num_kv_heads} does not divide '
            f'model.num_heads={model.num_heads}'
        )
