"""Runs become points of a scaling law: parameters, tokens, FLOPs, loss."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bigmodel.errors import UserError
from bigmodel.reports.gathered import Gathered, Run, gather

COUNTS = ('all', 'non_embedding')
LOSSES = ('loss', 'nll')  # metrics that are nats a token
FEWEST = 6  # a law has five coefficients


@dataclasses.dataclass(frozen=True)
class Points:
    """Finished runs, one entry each."""

    params: Float[np.ndarray, ' n']
    tokens: Float[np.ndarray, ' n']
    flops: Float[np.ndarray, ' n']
    loss: Float[np.ndarray, ' n']
    counts: str = 'all'  # of COUNTS
    metric: str = 'validation/loss'
    vocab_size: int = 0  # 0: not recorded
    skipped: int = 0  # runs that have not finished

    def __len__(self) -> int:
        return len(self.loss)

    def chosen(self, indices: Sequence[int] | np.ndarray) -> 'Points':
        """Some of the runs, perhaps more than once."""
        columns = ('params', 'tokens', 'flops', 'loss')
        return dataclasses.replace(self, **{k: getattr(self, k)[indices] for k in columns})


def read_points(folders: Sequence[pathlib.Path], metric: str = '', counts: str = 'all') -> Points:
    """The finished runs of a sweep's directory, or of several of runs.

    Only the end of a run counts: before it, the learning rate has not come down. Raises UserError
    for a metric that is no loss in nats, runs of other data than others, and too few of them.
    """
    if counts not in COUNTS:
        raise UserError(f'--params={counts}: choose {" or ".join(COUNTS)}')
    if metric:
        _check_nats(metric)
    found = gather(folders, metric)
    _check_nats(found.metric)
    runs = [run for arm in found.arms for run in arm.done.values()]
    _check(runs, found)
    return Points(
        params=np.array([_count(run, counts) for run in runs], float),
        tokens=np.array([run.facts['tokens'] for run in runs], float),
        flops=np.array([run.flops for run in runs], float),
        loss=np.array([run.value for run in runs], float),
        counts=counts,
        metric=found.metric,
        vocab_size=max(int(run.facts.get('vocab_size', 0)) for run in runs),
        skipped=sum(run.state != 'done' for run in found.runs),
    )


def _check_nats(metric: str) -> None:
    if metric.partition('/')[2].partition('/')[0] not in LOSSES:
        raise UserError(
            f'{metric} is no loss in nats a token; give --metric=EVALUATION/nll or EVALUATION/loss'
        )


def _check(runs: Sequence[Run], found: Gathered) -> None:
    if len(runs) < FEWEST:
        raise UserError(
            f'{len(runs)} of {len(found.runs)} runs have finished with {found.metric}; a law of '
            f'five coefficients needs at least {FEWEST}, of several sizes and lengths'
        )
    data = {run.facts.get('data_fingerprint') for run in runs}
    if len(data) > 1:
        raise UserError(
            f'the runs are of {len(data)} data sets (data_fingerprint in run.json); losses of one '
            f'law must be of the same data and tokenizer'
        )
    unknown = next((run for run in runs if not run.flops), None)
    if unknown:
        raise UserError(f'{unknown.path}/run.json does not say how many FLOPs a token takes')


def _count(run: Run, counts: str) -> int:
    if counts == 'all':
        return run.facts['num_params']
    if 'num_embedding' not in run.facts:
        raise UserError(
            f'{run.path}/run.json, of an older version, does not say how many parameters are '
            f'embeddings; use --params=all'
        )
    return run.facts['num_params'] - run.facts['num_embedding']
