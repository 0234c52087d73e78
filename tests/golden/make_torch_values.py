"""Makes torch_values.npz again: what PyTorch and Hugging Face compute for the tests to hold us to.

Made with torch 2.13.0 and transformers 5.17.0; the tests read the file and need neither.

    python tests/golden/make_torch_values.py

Inputs are rounded to float32 and everything is computed in float64 (except where Hugging Face
insists on float32), so that tolerances only have to cover this package's own rounding.
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

HEADS = (1, 2, 3, 4, 6, 8, 12, 20, 25, 64)
values: dict[str, np.ndarray] = {}
rng = np.random.default_rng(0)


def tensor(*shape: int, scale: float = 1.0, grad: bool = True) -> torch.Tensor:
    """A normal float64 tensor whose values float32 holds exactly."""
    data = (scale * rng.standard_normal(shape)).astype(np.float32)
    return torch.tensor(data.astype(np.float64), requires_grad=grad)


def keep(name: str, **tensors: torch.Tensor) -> None:
    """Stores each tensor as `name/key`, in float32 or as integers."""
    for key, value in tensors.items():
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        values[f'{name}/{key}'] = array.astype(np.float32) if array.dtype.kind == 'f' else array


def gradients(name: str, output: torch.Tensor, **inputs: torch.Tensor) -> None:
    """Stores a cotangent, the output and the gradient of every input (`d_key`)."""
    cotangent = tensor(*output.shape, grad=False)
    output.backward(cotangent)
    keep(name, output=output, cotangent=cotangent, **inputs)
    keep(name, **{f'd_{k}': v.grad for k, v in inputs.items() if v.grad is not None})


def positions() -> None:
    pos = torch.tensor([[0, 1, 2, 3, 4], [7, 100, 0, 1, 2000]])
    x = tensor(2, 5, 3, 8, grad=False).float()
    keep('rope', x=x, pos=pos)
    for name, theta in (('1e4', 1e4), ('5e5', 5e5)):
        config = LlamaConfig(
            hidden_size=24,
            num_attention_heads=3,
            head_dim=8,
            rope_parameters={'rope_type': 'default', 'rope_theta': theta},
        )
        cos, sin = LlamaRotaryEmbedding(config)(x, pos)
        rotated, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
        keep('rope', **{f'theta_{name}': rotated.transpose(1, 2)})
    for heads in HEADS:
        alibi = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
        keep('alibi', **{f'slopes_{heads}': alibi[:, 0, 1]})
    relative = torch.arange(-300, 301)  # key − query
    for buckets, longest in ((32, 128), (16, 20)):
        for bidirectional in (False, True):
            bucket = T5Attention._relative_position_bucket(
                relative, bidirectional, buckets, longest
            )
            keep('t5', **{f'bucket_{buckets}_{longest}_{bidirectional}': bucket})
    keep('t5', distance=-relative)


def attention() -> None:
    B, L, H, G, K = 2, 6, 4, 2, 8
    band = torch.ones(L, L).tril().bool() & torch.ones(L, L).triu(-2).bool()
    segments = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])
    same = (segments[:, None, :, None] == segments[:, None, None, :]) & torch.ones(
        L, L
    ).tril().bool()
    cases = {
        'full': {},
        'causal': {'is_causal': True},
        'window_3': {'attn_mask': band},
        'causal_segments': {'attn_mask': same},
    }
    keep('sdpa', segments=segments)
    for name, mask in cases.items():
        for kv in (H, G):
            q, k, v = tensor(B, H, L, K), tensor(B, kv, L, K), tensor(B, kv, L, K)
            out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **mask)
            gradients(f'sdpa/{name}_{kv}', out, q=q, k=k, v=v)
    q, k, v = tensor(B, H, L, K), tensor(B, G, L, K), tensor(B, G, L, K)
    bias = tensor(1, H, L, L)
    masked = torch.where(torch.ones(L, L).tril().bool(), bias, -1e30)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=masked, enable_gqa=True)
    gradients('sdpa/bias', out, q=q, k=k, v=v, bias=bias)

    D = H * K
    for name, causal in (('full', False), ('causal', True)):
        module = torch.nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(tensor(*p.shape, scale=0.2, grad=False))
        x = tensor(B, L, D)
        mask = ~torch.ones(L, L).tril().bool() if causal else None
        out, _ = module(x, x, x, attn_mask=mask, need_weights=False)
        gradients(
            f'mha/{name}',
            out,
            x=x,
            **{k.replace('.', '_'): v for k, v in module.named_parameters()},
        )


def layers() -> None:
    for name in ('rmsnorm', 'layernorm', 'layernorm_no_bias'):
        x, scale, bias = tensor(3, 4, 10, scale=2.0), tensor(10), tensor(10)
        with torch.no_grad():
            x += 1.5
        if name == 'rmsnorm':
            gradients(name, F.rms_norm(x, (10,), scale, eps=1e-6), x=x, scale=scale)
        elif name == 'layernorm':
            gradients(
                name, F.layer_norm(x, (10,), scale, bias, eps=1e-5), x=x, scale=scale, bias=bias
            )
        else:
            gradients(name, F.layer_norm(x, (10,), scale, None, eps=1e-5), x=x, scale=scale)
    activations = {
        'relu': F.relu,
        'gelu': F.gelu,
        'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
        'silu': F.silu,
        'tanh': torch.tanh,
    }
    for name, f in activations.items():
        x, w1, b1 = tensor(2, 3, 6), tensor(12, 6), tensor(12)
        wg, bg, w2, b2 = tensor(12, 6), tensor(12), tensor(6, 12), tensor(6)
        out = F.linear(f(F.linear(x, w1, b1)), w2, b2)
        gradients(f'mlp/{name}', out, x=x, w1=w1, b1=b1, w2=w2, b2=b2)
        for t in (x, w1, b1, w2, b2):
            t.grad = None
        out = F.linear(f(F.linear(x, wg, bg)) * F.linear(x, w1, b1), w2, b2)
        gradients(f'gated/{name}', out, x=x, w1=w1, b1=b1, wg=wg, bg=bg, w2=w2, b2=b2)


def losses() -> None:
    targets = torch.tensor(rng.integers(0, 11, (3, 5)))
    keep('cross_entropy', targets=targets)
    for smoothing in (0.0, 0.1):
        logits = tensor(3, 5, 11, scale=3.0)
        loss = F.cross_entropy(
            logits.reshape(-1, 11), targets.reshape(-1), label_smoothing=smoothing, reduction='none'
        )
        gradients(f'cross_entropy/{smoothing}', loss.reshape(3, 5), logits=logits)


def optimizers() -> None:
    """Ten steps with given gradients of growing and shrinking size, without a model."""
    steps, shapes = 10, {'a': (4, 3), 'b': (5,)}
    start = {k: tensor(*s, grad=False) for k, s in shapes.items()}
    grads = {k: tensor(steps, *s, grad=False) for k, s in shapes.items()}
    for i in range(steps):
        for g in grads.values():
            g[i] *= 3.0 ** (i % 4 - 2)
    keep('optimizer/start', **start)
    keep('optimizer/grads', **grads)
    O = torch.optim
    runs = {
        'adamw': (lambda p: O.AdamW(p, 0.05, (0.9, 0.95), 1e-8, weight_decay=0.1), 0.0),
        'adamw_clip': (lambda p: O.AdamW(p, 0.05, (0.8, 0.99), 1e-6, weight_decay=0.1), 1.0),
        'sgd': (lambda p: O.SGD(p, 0.05, momentum=0.9), 0.0),
        'sgd_nesterov': (lambda p: O.SGD(p, 0.05, momentum=0.8, nesterov=True), 1.0),
    }
    for name, (make, clip) in runs.items():
        params = {k: v.clone().requires_grad_() for k, v in start.items()}
        optimizer = make(params.values())
        trajectory = {k: [] for k in params}
        for i in range(steps):
            for k, p in params.items():
                p.grad = grads[k][i].clone()
            if clip:
                torch.nn.utils.clip_grad_norm_(params.values(), clip)
            optimizer.step()
            for k, p in params.items():
                trajectory[k].append(p.detach().clone())
        keep(f'optimizer/{name}', **{k: torch.stack(v) for k, v in trajectory.items()})


if __name__ == '__main__':
    torch.manual_seed(0)
    for make in (positions, attention, layers, losses, optimizers):
        make()
    path = pathlib.Path(__file__).with_name('torch_values.npz')
    np.savez_compressed(path, **values)
    print(f'{len(values)} arrays, {path.stat().st_size:,} bytes, torch {torch.__version__}')
