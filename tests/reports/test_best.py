"""The best of each method in a grid, by hand."""

import statistics

import pytest
from scipy import stats

from bigmodel.commands.main import main
from bigmodel.reports.best import bests
from bigmodel.reports.gathered import gather
from bigmodel.reports.noise import noise
from bigmodel.sweeps.arms import chain, cross, grid, sample, uniform, zipped
from bigmodel.sweeps.folder import SweepDir
from bigmodel.sweeps.names import arm_names
from bigmodel.sweeps.plan import Job
from tests.reports.made import falling, made_sweep

RATES = {'adamw': (0.001, 0.003, 0.01), 'muon': (0.003, 0.01, 0.03), 'sgd': (0.1,)}
NESTED = chain(
    *(
        cross(grid({'optimizer.name': (name,)}), grid({'optimizer.learning_rate': rates}))
        for name, rates in RATES.items()
    )
)
LOSS = {'adamw': {0.001: 2.2, 0.003: 2.1, 0.01: 2.4}, 'muon': {0.003: 2.0, 0.01: 1.8, 0.03: 1.7}}


def made(path, arms, seeds=(0, 1, 2), value=lambda changes: 1.0) -> SweepDir:
    def curve(changes, seed):
        return falling(value(changes), 0.01, seed)

    return made_sweep(path, dict(zip(arm_names(arms), arms, strict=True)), seeds, curve)


def loss(changes) -> float:
    return LOSS.get(changes['optimizer.name'], {}).get(changes['optimizer.learning_rate'], 3.0)


def test_each_method_at_its_own_best_rate(tmp_path) -> None:
    sweep = made(tmp_path / 'made', NESTED, value=loss)
    for seed in range(3):
        (sweep.run_dir(Job('adamw,learning_rate=0.01', seed)) / 'result.json').unlink()
    found = gather([sweep.path])
    by_method = next(best for best in bests(found) if best.factor == 'optimizer.name')
    rows = [dict(zip(by_method.heads, row, strict=True)) for row in by_method.rows]
    assert [row['optimizer.name'] for row in rows] == ['muon', 'adamw', 'sgd']
    rates = [row['optimizer.learning_rate'] for row in rows]
    assert rates == ['0.03 (highest)', '0.003 (highest)', '0.1']  # 0.01 of AdamW has not finished
    assert [row['best of'] for row in rows] == ['3', '2 (3 planned)', '1']
    arm = next(arm for arm in found.arms if arm.name == 'muon,learning_rate=0.03')
    values = [run.value for run in arm.done.values()]
    low, high = stats.t.interval(0.95, 2, statistics.fmean(values), stats.sem(values))
    assert rows[0]['validation/loss'] == f'{statistics.fmean(values):.4f}'
    assert rows[0]['95 % interval'] == f'{low:.4f} to {high:.4f}'
    lead = stats.norm.ppf((3 - 0.375) / 3.25) * noise(found).floor / 3**0.5
    assert float(rows[0]['by luck']) == pytest.approx(lead, abs=1e-4)
    assert float(rows[2]['by luck']) == 0


def test_it_is_in_the_page_and_in_the_text(tmp_path) -> None:
    sweep = made(tmp_path / 'made', NESTED, value=loss)
    assert main(['report', str(sweep.path)]) == 0
    page = (sweep.path / 'report' / 'report.html').read_text()
    text = (sweep.path / 'report' / 'report.md').read_text()
    assert '<h2>Best of each optimizer.name</h2>' in page and 'The same runs have chosen it' in page
    assert '## Best of each optimizer.name' in text and '| muon | 1.7' in text


def test_keys_that_change_together_are_one_factor(tmp_path) -> None:
    widths = zipped({'model.width': (16, 32), 'model.num_heads': (1, 2)})
    arms = cross(widths, grid({'optimizer.learning_rate': (0.1, 0.2)}))
    found = gather([made(tmp_path / 'made', arms, (0,)).path])
    factors = [best.factor for best in bests(found)]
    assert factors == ['model.width, model.num_heads', 'optimizer.learning_rate']
    assert bests(found)[0].rows[0][0] in ('16, 1', '32, 2')


@pytest.mark.parametrize(
    'arms',
    [
        grid({'model.position': ('rope', 'alibi', 'none')}),
        sample(6, {'optimizer.learning_rate': uniform(0.0, 1.0), 'model.dropout': uniform(0, 1)}),
        ({}, {'model.position': 'alibi'}, {'model.norm': 'layernorm'}, {'model.dropout': 0.1}),
    ],
)
def test_without_a_grid_there_is_none(tmp_path, arms) -> None:
    assert not bests(gather([made(tmp_path / 'made', arms, (0,)).path]))
