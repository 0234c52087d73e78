"""Laws recover what was planted, and the published ones say what their papers say."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import huber, logsumexp

from bigmodel.errors import UserError
from bigmodel.laws import bootstrap, profiles
from bigmodel.laws.law import PUBLISHED, from_json, to_json
from bigmodel.laws.parametric import DELTA, Problem, fit
from bigmodel.laws.points import Points
from bigmodel.laws.scaling import COEFFICIENTS, scaling, text

LAW = PUBLISHED['besiroglu']


def made(law, params, tokens, noise: float = 0.0, seed: int = 0) -> Points:
    """Runs whose losses are the law's, times noise."""
    params, tokens = np.asarray(params, float), np.asarray(tokens, float)
    draw = np.random.default_rng(seed)
    loss = law.loss(params, tokens) * np.exp(noise * draw.standard_normal(len(params)))
    return Points(params, tokens, 6 * params * tokens, loss)


def scattered(count: int, noise: float, seed: int = 0) -> Points:
    """Runs of the range of Hoffmann et al.'s."""
    draw = np.random.default_rng(seed)
    params = np.exp(draw.uniform(math.log(5e7), math.log(1.6e10), count))
    return made(
        LAW, params, np.exp(draw.uniform(math.log(1e9), math.log(5e11), count)), noise, seed
    )


def budgets_of(law, budgets, sizes, noise: float = 0.0) -> Points:
    pairs = [(n, c / (6 * n)) for c in budgets for n in sizes]
    return made(law, *zip(*pairs, strict=True), noise)


def test_the_optimum_of_a_published_law_is_that_of_a_search() -> None:
    for law in PUBLISHED.values():
        for flops in (1e18, 1e21, 1e24):
            params, tokens = law.optimum(flops)
            assert 6 * params * tokens == pytest.approx(flops)
            found = minimize_scalar(
                lambda x, c=flops, w=law: w.loss(math.exp(x), c / 6 / math.exp(x)),
                bounds=(10, 35),
                method='bounded',
                options={'xatol': 1e-10},
            )
            assert params == pytest.approx(math.exp(found.x), rel=1e-5)


def test_published_laws_say_what_their_papers_say() -> None:
    # Hoffmann et al. 2022: table 2 (a = 0.46, b = 0.54); at Gopher's compute approach 3 gives 40B
    # parameters; table A3, approach 3: 1B parameters take 27.1B tokens.
    hoffmann = PUBLISHED['hoffmann']
    assert round(hoffmann.exponent, 2) == 0.46
    assert hoffmann.optimum(5.76e23)[0] == pytest.approx(40e9, rel=0.02)
    assert hoffmann.optimum(6 * 1e9 * 27.1e9)[0] == pytest.approx(1e9, rel=0.05)
    # Besiroglu et al. 2024: a = 0.513, and about 20 tokens a parameter at Chinchilla's compute.
    assert round(LAW.exponent, 3) == 0.513
    params, tokens = LAW.optimum(5.76e23)
    assert 15 < tokens / params < 25 and params == pytest.approx(70e9, rel=0.05)


def test_coefficients_are_recovered_exactly_without_noise() -> None:
    found = fit(scattered(60, 0.0))
    for name in COEFFICIENTS:
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), rel=1e-4)
    assert found.flops_per_weight == pytest.approx(6)


def test_coefficients_are_recovered_from_noise_and_lie_in_their_intervals() -> None:
    points = scattered(150, 2e-3)
    found = fit(points)
    assert abs(found.E / LAW.E - 1) < 0.02
    assert abs(found.alpha / LAW.alpha - 1) < 0.05 and abs(found.beta / LAW.beta - 1) < 0.05
    draws = bootstrap.laws(points, found, 40)
    assert len(draws) == 40
    for name in COEFFICIENTS:
        low, high = bootstrap.interval([getattr(draw, name) for draw in draws])
        assert low < getattr(found, name) < high
        wide = (high - low) / 2
        assert low - wide < getattr(LAW, name) < high + wide


def test_an_outlier_does_not_move_the_fit() -> None:
    points = scattered(60, 0.0)
    points.loss[7] *= 1.5
    found = fit(points)
    assert pytest.approx(LAW.E, rel=1e-3) == found.E
    assert found.alpha == pytest.approx(LAW.alpha, rel=5e-3)


def test_the_objective_is_the_papers_and_its_gradient_a_difference() -> None:
    points = scattered(20, 5e-3)
    problem = Problem(points)
    law = PUBLISHED['hoffmann']
    x = problem.coefficients(law)
    a, b, e = np.log([law.A, law.B, law.E])
    terms = [a - law.alpha * np.log(points.params), b - law.beta * np.log(points.tokens)]
    residual = logsumexp([*terms, np.full(20, e)], axis=0) - np.log(points.loss)
    want = huber(DELTA, residual).sum() / DELTA**2
    value, slope = problem.objective(x)
    assert value == pytest.approx(want)
    for i, step in enumerate(1e-7 * np.eye(5)):
        change = problem.objective(x + step)[0] - problem.objective(x - step)[0]
        assert slope[i] == pytest.approx(change / 2e-7, rel=1e-4, abs=1e-2)
    assert to_json(problem.law(x))['A'] == pytest.approx(law.A)


def test_no_start_of_another_method_finds_a_better_minimum() -> None:
    points = scattered(40, 3e-3)
    problem = Problem(points)
    found = problem.coefficients(fit(points))
    simplex = {'xatol': 1e-9, 'fatol': 1e-9, 'maxiter': 4000, 'maxfev': 4000}
    other = minimize(
        lambda x: problem.objective(x)[0], found + 0.01, method='Nelder-Mead', options=simplex
    )
    assert problem.objective(found)[0] <= other.fun * (1 + 1e-6)


def test_profiles_find_the_optimum_of_each_budget() -> None:
    budgets = (1e19, 1e20, 1e21)
    sizes = [LAW.optimum(1e20)[0] * 2.0**k for k in np.arange(-4, 4.5, 0.5)]
    points = budgets_of(LAW, budgets, sizes)
    found = profiles.profiles(points)
    assert [p.flops for p in found] == pytest.approx(budgets)
    for p in found:
        chosen = points.chosen(np.array(p.runs))
        want = np.polyfit(np.log(chosen.params), chosen.loss, 2)
        assert p.curve == pytest.approx(tuple(want), rel=1e-6)
        assert p.params == pytest.approx(math.exp(-want[1] / 2 / want[0]), rel=1e-6)
        assert p.params * p.tokens * 6 == pytest.approx(p.flops, rel=1e-6)
        assert p.loss == pytest.approx(np.polyval(want, math.log(p.params)), rel=1e-6)


def test_power_laws_of_profiles_are_those_of_a_symmetric_law() -> None:
    """With α = β the loss is even around the optimum in log N, and a parabola finds it."""
    law = from_json({**to_json(LAW), 'alpha': 0.35, 'beta': 0.35, 'A': 400.0, 'B': 1600.0})
    pairs = []
    for flops in (1e19, 1e20, 1e21, 1e22):
        best = law.optimum(flops)[0]
        pairs += [(n, flops / 6 / n) for n in best * 2.0 ** np.arange(-2, 3)]
    points = made(law, *zip(*pairs, strict=True))
    n, d = profiles.powers(profiles.profiles(points))
    assert (n.exponent, d.exponent) == pytest.approx((0.5, 0.5))
    assert (n(1e23), d(1e23)) == pytest.approx(law.optimum(1e23))
    draws = bootstrap.optima(points, 30)
    assert draws and all(abs(draw[0].exponent - 0.5) < 0.05 for draw in draws)


def test_a_budget_without_a_minimum_has_no_profile() -> None:
    sizes = [LAW.optimum(1e20)[0] * 2.0**k for k in range(3, 9)]  # all too large
    assert not profiles.profiles(budgets_of(LAW, (1e20, 1e21 / 50), sizes))
    assert profiles.powers([]) is None
    assert not profiles.budgets(scattered(10, 0.0).chosen([0, 0, 1, 1]))


def test_the_text_compares_with_the_published() -> None:
    found = scaling(scattered(40, 1e-3), 10)
    said = text(found)
    assert 'hoffmann: a 0.456' in said and 'besiroglu: a 0.513' in said
    assert f'a {found.law.exponent:.3f}' in said and 'it takes two' in said
    assert np.abs(found.errors).max() < 0.01


@pytest.mark.parametrize(
    ('params', 'tokens'), [([1e6, 1e6, 2e6] * 3, range(1, 10)), ([1e6, 2e6, 3e6] * 2, [1, 2] * 3)]
)
def test_too_few_sizes_or_lengths_are_refused(params, tokens) -> None:
    with pytest.raises(UserError, match='at least three sizes and three numbers of tokens'):
        fit(made(LAW, params, 1e9 * np.array(tokens)))


def test_a_loss_that_grows_with_size_is_refused() -> None:
    points = scattered(30, 0.0)
    flipped = Points(1e18 / points.params, points.tokens, points.flops, points.loss)
    with pytest.raises(UserError, match='does not fall with more parameters'):
        fit(flipped)
