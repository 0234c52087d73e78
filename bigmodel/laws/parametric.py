"""The parametric fit: all coefficients of L(N, D) at once (Hoffmann et al. 2022, §3.3, §D.2)."""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from bigmodel.errors import UserError
from bigmodel.laws.law import Law
from bigmodel.laws.points import Points

DELTA = 1e-3  # of the Huber loss, on log L
# The starts of the paper, of log A, log B, log E, α, β.
STARTS = tuple(
    itertools.product(
        np.arange(0, 30, 5),
        np.arange(0, 30, 5),
        np.arange(-1, 1.5, 0.5),
        *[np.arange(0, 2.5, 0.5)] * 2,
    )
)
TRIED = 20  # of these starts, the best ones are followed to the end

Coefficients = Float[np.ndarray, '5']  # log A', log B', log E, α, β: see _centred


def fit(points: Points) -> Law:
    """The coefficients that fit best.

    Minimises the Huber loss of log L, with L as a log-sum-exp, by L-BFGS from a grid of starts.
    Raises UserError where runs have fewer than three sizes or numbers of tokens, or where the loss
    does not fall with them.
    """
    problem = Problem(points)
    with one_thread():
        law = problem.law(problem.solve(problem.starts()))
    for what, exponent in (('parameters', law.alpha), ('tokens', law.beta)):
        if exponent <= 0:
            raise UserError(f'the loss does not fall with more {what}: no law fits these runs')
    return law


def one_thread() -> threadpool_limits:
    """A context in which linear algebra keeps to one thread: for the tiny products of L-BFGS, more
    take up to a hundred times as long when cores are busy.
    """
    return threadpool_limits(1, 'blas')


def distinct(points: Points) -> tuple[int, int]:
    """How many sizes and how many numbers of tokens there are."""
    return len(np.unique(points.params)), len(np.unique(points.tokens))


class Problem:
    """What is minimised, in coordinates in which L-BFGS gets far.

    log A and α are nearly one direction, as log N is far from 0, so A and B are taken at the mean
    of log N and of log D. The objective is in units of δ² and a sum: as a mean it is so small that
    L-BFGS stops early (Besiroglu et al. 2024, §4).
    """

    def __init__(self, points: Points) -> None:
        if min(distinct(points)) < 3:
            raise UserError(
                'a law needs at least three sizes and three numbers of tokens; the runs have {} '
                'and {}'.format(*distinct(points))
            )
        self._points = points
        logs = np.log([points.params, points.tokens])
        self._means = logs.mean(axis=1)
        self._from_mean = np.vstack([logs - self._means[:, None], np.zeros(len(points))])
        self._log_loss = np.log(points.loss)

    def starts(self) -> list[Coefficients]:
        """The best ones of the grid."""
        found = [self._centred(np.array(start)) for start in STARTS]
        found.sort(key=lambda start: self.objective(start)[0])
        return found[:TRIED]

    def solve(self, starts: list[Coefficients]) -> Coefficients:
        """The best of the minima that lie below `starts`."""
        options = {'maxiter': 500, 'maxfun': 2000, 'ftol': 1e-13, 'gtol': 1e-7}
        ends = [
            minimize(self.objective, x, jac=True, method='L-BFGS-B', options=options)
            for x in starts
        ]
        return min(ends, key=lambda end: end.fun).x

    def objective(self, x: Coefficients) -> tuple[float, Coefficients]:
        """The Huber loss in units of δ², and its gradient."""
        terms = self._terms(x)
        largest = terms.max(axis=0)
        exps = np.exp(terms - largest)
        sums = exps.sum(axis=0)
        error = (largest + np.log(sums) - self._log_loss) / DELTA
        shares = exps / sums * np.clip(error, -1, 1) / DELTA
        inside = np.abs(error) <= 1
        value = np.where(inside, error**2 / 2, np.abs(error) - 0.5).sum()
        slopes = -(shares * self._from_mean).sum(axis=1)
        return float(value), np.concatenate([shares.sum(axis=1), slopes[:2]])

    def _terms(self, x: Coefficients) -> Float[np.ndarray, '3 n']:
        """log A/N^α, log B/D^β, log E of every run."""
        slopes = np.array([x[3], x[4], 0.0])[:, None]
        return x[:3, None] - slopes * self._from_mean

    def law(self, x: Coefficients) -> Law:
        """The coefficients as the formula has them."""
        p = self._points
        log_a, log_b = x[0] + x[3] * self._means[0], x[1] + x[4] * self._means[1]
        return Law(
            E=float(np.exp(x[2])),
            A=float(np.exp(log_a)),
            B=float(np.exp(log_b)),
            alpha=float(x[3]),
            beta=float(x[4]),
            source=f'a fit to {len(p)} runs',
            params=(float(p.params.min()), float(p.params.max())),
            tokens=(float(p.tokens.min()), float(p.tokens.max())),
            flops=(float(p.flops.min()), float(p.flops.max())),
            counts=p.counts,
            flops_per_weight=float(np.exp(np.log(p.flops / (p.params * p.tokens)).mean())),
        )

    def coefficients(self, law: Law) -> Coefficients:
        """The inverse of `law`: where to begin at one that is known."""
        logs = np.log([law.A, law.B, law.E])
        return self._centred(np.array([*logs, law.alpha, law.beta]))

    def _centred(self, start: Coefficients) -> Coefficients:
        moved = start.copy()
        moved[:2] -= start[3:] * self._means
        return moved
