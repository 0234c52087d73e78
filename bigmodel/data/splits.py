"""Train, validation and test: documents are shared out by a stable hash of their names."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from bigmodel.errors import UserError, unknown

SPLITS = ('train', 'validation', 'test')


def share_out(names: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """The split of each name: the given shares (at least one each), the rest is 'train'."""
    hashes = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], 'little') for n in names]
    codes = share_out_hashes(np.array(hashes, np.uint64), shares)
    return [SPLITS[c] for c in codes]


def share_out_hashes(hashes: np.ndarray, shares: Mapping[str, float]) -> np.ndarray:
    """int8 (n,): the index in SPLITS of each hash; a document stays put as others come and go."""
    counts = [math.ceil(len(hashes) * shares.get(split, 0.0) - 1e-9) for split in SPLITS[1:]]
    codes = np.zeros(len(hashes), np.int8)
    order, start = np.argsort(hashes, kind='stable'), 0
    for code, count in enumerate(counts, 1):
        codes[order[start : start + count]] = code
        start += count
    return codes


def check_split(split: str) -> None:
    """Raises UserError for a split other than the three."""
    if split not in SPLITS:
        raise unknown('split of data.source', split, SPLITS)


def check_shares(validation: float, test: float) -> dict[str, float]:
    """The two shares as a dict; raises UserError when nothing is left for training."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise UserError(
            f'data.source: validation={validation} and test={test} are shares of the data; '
            f'both must be at least 0 and their sum below 1'
        )
    return {'validation': validation, 'test': test}
