"""Makes preference_values.npz again: losses of preference and distillation, as PyTorch has them.

Made with torch 2.13.0; the tests read the file and do not need it. Inputs are rounded to float32
and everything is computed in float64.

    python tests/golden/make_preference_values.py
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional as F

PAIRS, LENGTH, VOCAB = 3, 6, 11
values: dict[str, np.ndarray] = {}
rng = np.random.default_rng(0)


def tensor(*shape: int) -> torch.Tensor:
    """Normal logits whose values float32 holds exactly."""
    data = (2 * rng.standard_normal(shape)).astype(np.float32)
    return torch.tensor(data.astype(np.float64), requires_grad=True)


def keep(name: str, loss: torch.Tensor, logits: torch.Tensor, **more: torch.Tensor) -> None:
    """Stores each loss, and the gradient of their sum by the logits."""
    (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    for key, value in {'loss': loss, 'd_logits': gradient, **more}.items():
        values[f'{name}/{key}'] = value.detach().numpy().astype(np.float32)


def log_p(logits: torch.Tensor, tokens: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """The log-probability of each response: logits at a place predict the next token."""
    each = F.log_softmax(logits[:, :, :-1], -1).gather(-1, tokens[:, :, 1:, None])[..., 0]
    return (each * response[:, :, 1:]).sum(-1)


def main() -> None:
    tokens = torch.tensor(rng.integers(0, VOCAB, (PAIRS, 2, LENGTH)))
    lengths = torch.tensor([[6, 4], [3, 6], [5, 5]])
    prompts = torch.tensor([2, 1, 3])[:, None, None]
    places = torch.arange(LENGTH)
    response = (places >= prompts) & (places < lengths[..., None])
    policy, reference = (tensor(PAIRS, 2, LENGTH, VOCAB) for _ in range(2))
    for key, value in (('tokens', tokens), ('lengths', lengths), ('response', response)):
        values[key] = value.numpy().astype(np.int32)
    for key, value in (('policy', policy), ('reference', reference)):
        values[key] = value.detach().numpy().astype(np.float32)
    ours, theirs = (log_p(x, tokens, response) for x in (policy, reference))
    for beta in (0.1, 0.5):
        reward = beta * (ours - theirs)
        margin = reward[:, 0] - reward[:, 1]
        keep(f'dpo/{beta}', -F.logsigmoid(margin), policy, margin=margin)
    mean = ours / response[:, :, 1:].sum(-1)
    for beta, gamma in ((2.0, 0.5), (1.0, 0.0)):
        margin = beta * mean[:, 0] - beta * mean[:, 1]
        keep(f'simpo/{beta}/{gamma}', -F.logsigmoid(margin - gamma), policy, margin=margin)
    for weight, t in ((0.5, 2.0), (1.0, 1.0), (0.2, 5.0)):
        student, teacher = policy[:, 0, :-1], reference[:, 0, :-1].detach()
        hard = F.cross_entropy(student.transpose(1, 2), tokens[:, 0, 1:], reduction='none')
        soft = F.kl_div(
            F.log_softmax(student / t, -1), F.softmax(teacher / t, -1), reduction='none'
        ).sum(-1)
        loss = (1 - weight) * hard + weight * t**2 * soft
        keep(f'distillation/{weight}/{t}', loss, policy, divergence=t**2 * soft)


if __name__ == '__main__':
    main()
    path = pathlib.Path(__file__).with_name('preference_values.npz')
    np.savez_compressed(path, **values)
    print(f'{len(values)} arrays, {path.stat().st_size:,} bytes, torch {torch.__version__}')
