"""Makes bert_values.npz again: the logits of Hugging Face's BertForMaskedLM, to hold `bert-*` to.

Made with torch 2.13.0 and transformers 5.23.0; the tests read the file and need neither.

    python tests/golden/make_bert_values.py

A small model with random weights, also where they start at 0 or 1. Weights are rounded to float32
and the logits computed in float64, so that the tolerance only has to cover this package's rounding.
"""

import pathlib

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

LENGTHS = (12, 7)  # of two rows, the second one padded


def main() -> None:
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=max(LENGTHS),
    )
    model = BertForMaskedLM(config).double().eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = name.endswith('LayerNorm.weight')
            x = rng.normal(1.0 if norm else 0.0, 0.3, p.shape).astype(np.float32)
            p.copy_(torch.tensor(x))
    tokens = rng.integers(0, config.vocab_size, (len(LENGTHS), max(LENGTHS)))
    segments = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    with torch.no_grad():
        logits = model(torch.tensor(tokens), attention_mask=torch.tensor(segments)).logits
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    values = {k: v.detach().numpy().astype(np.float32) for k, v in model.named_parameters()}
    values |= {'tokens': tokens, 'segments': segments, 'logits': logits.numpy().astype(np.float32)}
    path = pathlib.Path(__file__).with_name('bert_values.npz')
    np.savez_compressed(path, **values)
    print(f'{len(values)} arrays, {path.stat().st_size:,} bytes, {np.abs(values["logits"]).max()}')


if __name__ == '__main__':
    main()
