"""Chinchilla's parametric law L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, §3.3)."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from bigmodel.errors import UserError

HUBER = 1e-3  # of residuals of log L, as in the paper
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
# Starts of the search, as in the paper (appendix D.3): a coarser grid finds the same optimum.
STARTS = {
    'alpha': (0.2, 0.5, 1.0),
    'beta': (0.2, 0.5, 1.0),
    'e': (-1.0, 0.0, 1.0),
    'a': (0.0, 5.0, 15.0),
    'b': (0.0, 5.0, 15.0),
}


def fit(parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float]) -> Law:
    """The law with the least Huber loss of log L, by L-BFGS from a grid of starts.

    Raises UserError for too few points, or points of one size or one number of tokens alone.
    """
    log_n, log_d, log_l = (np.log(np.asarray(x, float)) for x in (parameters, tokens, losses))
    _check(log_n, log_d)
    starts = [np.array(start) for start in itertools.product(*STARTS.values())]
    # The most promising ones: most of the grid ends at the same place.
    starts.sort(key=lambda start: _objective(start, log_n, log_d, log_l)[0])
    found = [_search(start, log_n, log_d, log_l) for start in starts[:24]]
    return _law(min(found, key=lambda result: result.fun).x)


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
    # Exponents beyond these are of data that does not tell; e alone has no bound.
    bounds = [(0.0, 4.0), (0.0, 4.0), (None, None), (None, 60.0), (None, 60.0)]
    return optimize.minimize(
        _objective, start, args=logs, jac=True, method='L-BFGS-B', bounds=bounds
    )


def _objective(
    x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray
) -> tuple[float, np.ndarray]:
    """Σ Huber(LSE(a − α log N, b − β log D, e) − log L), and its gradient."""
    alpha, beta, e, a, b = x
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    predicted = special.logsumexp(terms, axis=0)
    residual = predicted - log_l
    slope = np.clip(residual, -HUBER, HUBER)  # of Huber's loss
    shares = slope * np.exp(terms - predicted)
    gradient = [
        -(shares[0] * log_n).sum(),
        -(shares[1] * log_d).sum(),
        shares[2].sum(),
        shares[0].sum(),
        shares[1].sum(),
    ]
    # In units of δ²: L-BFGS stops by absolute sizes.
    return float(special.huber(HUBER, residual).sum() / HUBER**2), np.array(gradient) / HUBER**2


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
