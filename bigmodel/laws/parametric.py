"""Chinchilla's parametric law L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, §3.3)."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from bigmodel.errors import UserError

HUBER = 1e-3  # of residuals of log L, as in the paper
# Of α, β and the logarithms of E, A, B: exponents beyond are of data that does not tell.
BOUNDS = ((0.0, 0.0, -np.inf, -np.inf, -np.inf), (4.0, 4.0, np.inf, 60.0, 60.0))
FEWEST = 6  # points, of five coefficients
FLOPS_A_PARAMETER = 6  # training FLOPs a parameter and token, in C = 6·N·D


@dataclasses.dataclass(frozen=True)
class Law:
    """The five coefficients; losses in nats a token, of the data that it was fitted to."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D)."""
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    def best(self, flops: float) -> tuple[float, float]:
        """The parameters and tokens with the least loss for C = 6·N·D training FLOPs (eq. 4)."""
        product = flops / FLOPS_A_PARAMETER
        ratio = self.alpha * self.A / (self.beta * self.B)
        parameters = (ratio * product**self.beta) ** (1 / (self.alpha + self.beta))
        return float(parameters), float(product / parameters)


# name -> (coefficients, where they were published)
PUBLISHED = {
    'hoffmann': (Law(1.69, 406.4, 410.7, 0.34, 0.28), 'Hoffmann et al. 2022, approach 3'),
    'besiroglu': (
        Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
        'Besiroglu et al. 2024, a replication of approach 3 on the same data',
    ),
}
# Starts of the search; the paper's grid (appendix D.3) is finer, and its search by L-BFGS, which
# stops early on a loss that is nearly an absolute value (Besiroglu et al. 2024, §3).
STARTS = {
    'alpha': (0.2, 0.5, 1.0),
    'beta': (0.2, 0.5, 1.0),
    'e': (-1.0, 0.0, 1.0),
    'a': (0.0, 5.0, 15.0),
    'b': (0.0, 5.0, 15.0),
}


def fit(parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float]) -> Law:
    """The law with the least Huber loss of log L, the best of searches from a grid of starts.

    Raises UserError for too few points, or points of one size or one number of tokens alone.
    """
    log_n, log_d, log_l = (np.log(np.asarray(x, float)) for x in (parameters, tokens, losses))
    _check(log_n, log_d)
    starts = [np.array(start) for start in itertools.product(*STARTS.values())]
    # The most promising ones, and some of the others: there are local minima.
    starts.sort(key=lambda start: np.abs(_residuals(start, log_n, log_d, log_l)).sum())
    found = [_search(start, log_n, log_d, log_l) for start in starts[:16] + starts[16::16]]
    return _law(min(found, key=lambda result: result.cost).x)


def bootstrap(
    parameters: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    times: int = 200,
    seed: int = 0,
) -> list[Law]:
    """Fits to points that are drawn with replacement, each from the fit to all of them.

    Draws of one size or one number of tokens alone are drawn anew.
    """
    points = np.log(np.array([parameters, tokens, losses], float))
    start = _coefficients(fit(parameters, tokens, losses))
    rng, laws = np.random.default_rng(seed), []
    while len(laws) < times:
        drawn = points[:, rng.integers(0, points.shape[1], points.shape[1])]
        if min(len(set(drawn[0])), len(set(drawn[1]))) > 1:
            laws.append(_law(_search(start, *drawn).x))
    return laws


def _search(start: np.ndarray, *logs: np.ndarray) -> optimize.OptimizeResult:
    return optimize.least_squares(
        _residuals,
        start,
        jac=_slopes,
        args=logs,
        loss='huber',
        f_scale=HUBER,
        x_scale='jac',
        bounds=BOUNDS,
        max_nfev=500,
    )


def _terms(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """The logarithms of the three terms of the law, of which log L is the log of the sum."""
    alpha, beta, e, a, b = x
    return np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])


def _residuals(
    x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray
) -> np.ndarray:
    return special.logsumexp(_terms(x, log_n, log_d), axis=0) - log_l


def _slopes(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray) -> np.ndarray:
    """Of the residuals, a row a point."""
    of_n, of_d, of_e = special.softmax(_terms(x, log_n, log_d), axis=0)
    return np.stack([-of_n * log_n, -of_d * log_d, of_e, of_n, of_d], axis=1)


def _law(x: np.ndarray) -> Law:
    alpha, beta, e, a, b = map(float, x)
    return Law(float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), alpha, beta)


def _coefficients(law: Law) -> np.ndarray:
    return np.array([law.alpha, law.beta, *np.log([law.E, law.A, law.B])])


def _check(log_n: np.ndarray, log_d: np.ndarray) -> None:
    if len(log_n) < FEWEST:
        raise UserError(
            f'a law of five coefficients needs {FEWEST} finished runs, not {len(log_n)}'
        )
    for logs, words in ((log_n, 'numbers of parameters'), (log_d, 'numbers of tokens')):
        if len(set(logs.round(3))) < 3:
            raise UserError(f'a law needs runs of at least three {words}')
