"""Makes tuning_values.npz again: losses of Hugging Face's fine-tuning heads, in float64.

(Hugging Face insists on float32 for the classes of tokens.)

Made with torch 2.13.0 and transformers 5.23.0; the tests read the file and need neither.

    python tests/golden/make_tuning_values.py
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertConfig
from transformers.loss.loss_utils import ForQuestionAnsweringLoss, ForTokenClassification

ROWS, LENGTH, LABELS = 4, 7, 3
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def main() -> None:
    classes = rng.integers(-1, LABELS, (ROWS, LENGTH))
    logits, ends = normal(ROWS, LENGTH, LABELS), normal(ROWS, LENGTH, 2)
    start, end = np.array([0, 2, 3, 6]), np.array([0, 2, 5, 6])
    numbers, predicted = normal(ROWS), normal(ROWS)
    t = lambda a: torch.tensor(a, dtype=torch.float64 if a.dtype.kind == 'f' else None)  # noqa: E731
    classes_loss = ForTokenClassification(
        t(logits), t(np.where(classes < 0, -100, classes)), BertConfig(num_labels=LABELS)
    )
    span_loss = ForQuestionAnsweringLoss(t(ends[..., 0]), t(ends[..., 1]), t(start), t(end))
    np.savez(
        pathlib.Path(__file__).parent / 'tuning_values.npz',
        classes=classes,
        logits=logits,
        classes_loss=classes_loss,
        ends=ends,
        start=start,
        end=end,
        span_loss=span_loss,
        numbers=numbers,
        predicted=predicted,
        mse=F.mse_loss(t(predicted), t(numbers)),
        mae=F.l1_loss(t(predicted), t(numbers)),
    )


if __name__ == '__main__':
    main()
