"""Laws: planted coefficients are found again, optima are those of a search."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.laws.isoflops import exponent, profiles
from bigmodel.laws.parametric import PUBLISHED, Law, _residuals, _slopes, bootstrap, fit
from bigmodel.laws.shapes import shape
from tests.reports.made import made_run

PLANTED = Law(1.7, 400.0, 1500.0, 0.35, 0.37)
SIZES = np.geomspace(1e7, 1e10, 7)
TOKENS = np.geomspace(1e8, 1e12, 7)


def points(law: Law, noise: float = 0.0) -> tuple[list[float], ...]:
    rng = np.random.default_rng(1)
    grid = [(float(n), float(d)) for n in SIZES for d in TOKENS]
    losses = [law.loss(n, d) * math.exp(noise * rng.standard_normal()) for n, d in grid]
    sizes, tokens = zip(*grid, strict=True)
    return list(sizes), list(tokens), losses


def test_planted_coefficients_are_found() -> None:
    found = fit(*points(PLANTED))
    for key in ('E', 'alpha', 'beta'):
        assert getattr(found, key) == pytest.approx(getattr(PLANTED, key), rel=1e-3)
    for key in ('A', 'B'):
        assert getattr(found, key) == pytest.approx(getattr(PLANTED, key), rel=2e-2)


def test_bootstraps_spread_as_fits_to_new_points_do() -> None:
    """Fits to seven draws of such points had a standard deviation of E of 0.0045."""
    laws = bootstrap(*points(PLANTED, noise=0.005), times=40)
    values = [law.E for law in laws]
    assert 0.0045 / 2 < np.std(values) < 0.0045 * 2
    for key in ('E', 'alpha', 'beta'):
        values = [getattr(law, key) for law in laws]
        assert abs(np.mean(values) - getattr(PLANTED, key)) < 3 * np.std(values)


def test_slopes_are_those_of_the_residuals() -> None:
    logs = [np.log(x) for x in points(PLANTED, noise=0.01)]
    x = np.array([0.3, 0.4, 0.5, 6.0, 7.0])
    theirs = [
        optimize.approx_fprime(x, lambda x, i=i: _residuals(x, *logs)[i], 1e-7) for i in (0, 9)
    ]
    np.testing.assert_allclose(_slopes(x, *logs)[[0, 9]], theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_best_size_is_that_of_a_search(name) -> None:
    law, flops = PUBLISHED[name][0], 1e21
    best = optimize.minimize_scalar(
        lambda log_n: law.loss(math.exp(log_n), flops / 6 / math.exp(log_n)),
        bounds=(10, 30),
        method='bounded',
        options={'xatol': 1e-9},
    )
    parameters, tokens = law.best(flops)
    assert parameters == pytest.approx(math.exp(best.x), rel=1e-4)
    assert 6 * parameters * tokens == pytest.approx(flops)


def test_the_replication_agrees_with_twenty_tokens_a_parameter() -> None:
    """Besiroglu et al. 2024, §4: for Chinchilla's budget the ratio is near 20, as its 70B on 1.4T
    is; the coefficients of Hoffmann et al. give far more tokens."""
    ratios = {}
    for name, (law, _) in PUBLISHED.items():
        parameters, tokens = law.best(5.76e23)
        ratios[name] = tokens / parameters
    assert 15 < ratios['besiroglu'] < 25 < 70 < ratios['hoffmann']


def test_profiles_find_the_minimum_of_a_parabola() -> None:
    sizes, flops, losses = [], [], []
    for c in (1e18, 1e19, 1e20):
        best = math.log(1e-2 * c**0.5)
        for n in np.geomspace(math.exp(best) / 5, math.exp(best) * 7, 6):
            sizes.append(float(n))
            flops.append(c * (1 + 0.02 * (n > math.exp(best))))
            losses.append(3 + 0.1 * (math.log(n) - best) ** 2)
    found = profiles(sizes, flops, losses)
    assert [p.best for p in found] == pytest.approx([1e7, 1e-2 * 10**9.5, 1e8], rel=1e-6)
    assert exponent(found) == pytest.approx(0.5, abs=0.01)
    falling = profiles([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0])
    assert falling[0].best == 0.0 and math.isnan(exponent(falling))


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UserError, match='needs 6 finished runs, not 2'):
        fit([1e6, 2e6], [1e7, 2e7], [3.0, 2.9])
    with pytest.raises(UserError, match='at least three numbers of tokens'):
        fit(list(SIZES), [1e8] * 7, [3.0] * 7)


@pytest.mark.parametrize(
    ('depth', 'width'),
    [(32, 4096), (80, 8192), (96, 12288)],
    ids=['Llama 2 7B', 'Llama 2 70B', 'GPT-3'],
)
def test_shapes_are_near_those_of_public_models(depth, width) -> None:
    ours = shape(12 * depth * width**2)
    assert 0.75 < ours[0] / depth < 1.25 and 0.85 < ours[1] / width < 1.15


def test_commands(tmp_path, capsys) -> None:
    for i, n in enumerate((1, 2, 4, 8)):
        for j, steps in enumerate((100, 200, 400)):
            changes = {'model.depth': n, 'num_steps': steps}
            loss = 1 + n**-0.5 + (steps / 100) ** -0.5
            made_run(tmp_path / 'runs' / f'{i}-{j}', changes, 0, [(steps, loss)])
    assert main(['scaling', str(tmp_path / 'runs'), '--bootstraps=5']) == 0
    out = capsys.readouterr().out
    assert 'of 12 runs, validation/loss' in out and 'iso-FLOP profile of' in out
    fitted = json.loads((tmp_path / 'runs' / 'scaling' / 'scaling.json').read_text())
    assert fitted['law']['alpha'] == pytest.approx(0.5, rel=0.01)
    assert fitted['law']['beta'] == pytest.approx(0.5, rel=0.01)
    assert (tmp_path / 'runs' / 'scaling' / 'scaling.png').exists()
    assert main(['size', '--flops=1e12', f'--fit={tmp_path}/runs/scaling/scaling.json']) == 0
    assert 'fitted to 12 runs' in capsys.readouterr().out
    assert main(['size', '--gpu-hours=10', '--gpu=h100', '--mfu=0.5']) == 0
    out = capsys.readouterr().out
    assert '10 hours of NVIDIA H100 at 50% of its peak, 1.78e+19 FLOPs' in out
    for argv, words in (
        (['size'], 'give --flops=1e21 or --gpu-hours=100'),
        (['size', '--flops=1e20', '--law=kaplan'], "unknown --law 'kaplan'"),
        (['size', '--gpu-hours=1', '--gpu=h999'], "unknown --gpu 'h999'"),
        (['size', '--flops=1e20', f'--fit={tmp_path}/x.json'], 'does not exist'),
        (['scaling', str(tmp_path)], 'must'),
    ):
        if argv[0] == 'size':
            assert main(argv) == 2
            assert words in capsys.readouterr().err
