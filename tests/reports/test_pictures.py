"""What the pictures take from the runs, before anything is drawn."""

import dataclasses
import pathlib

import pytest

from bigmodel.reports import costs, curves, factors, forest, searches
from bigmodel.reports.gathered import Arm, Gathered, Run
from bigmodel.reports.pictures import colours, plt, short
from bigmodel.reports.statistics import compare
from bigmodel.sweeps.arms import grid, log_uniform, sample


def made(arms, seeds: int = 2, states: dict | None = None) -> Gathered:
    """Arms whose value is the sum of their numbers, and a tenth more at each seed."""
    found = []
    for i, changes in enumerate(arms):
        runs = []
        for seed in range(seeds):
            end = sum(0.0 if isinstance(v, str) else v for v in changes.values()) + seed / 10
            curve = tuple((10 * step, end + 3 - step) for step in range(1, 4))
            facts = {'steps': 30, 'tokens': 30, 'seconds': 1.0 + i, 'flops_per_token': 5 * (i + 1)}
            state = (states or {}).get((i, seed), 'done')
            runs.append(Run(f'a{i}', seed, state, pathlib.Path('x'), curve, '', facts, {}))
        found.append(Arm(f'a{i}', changes, tuple(runs)))
    return Gathered('t', 'q', 'validation/loss', 'min', 'a0', 'config', tuple(found), ())


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


GRID = grid({'x': (1, 2, 3), 'y': (0.0, 10.0)})


def test_a_factor_alone_is_the_mean_over_the_others() -> None:
    figure = factors.factors(made(GRID), ())
    alone, _, together = figure.axes
    line = alone.lines[1]
    assert [*line.get_xdata()] == [1, 2, 3]
    assert [*line.get_ydata()] == pytest.approx([6.05, 7.05, 8.05])  # of y=0 and y=10
    ends = [[*line.get_ydata()] for line in together.lines if line.get_marker() == 'o']
    assert ends == [pytest.approx([1.05, 2.05, 3.05]), pytest.approx([11.05, 12.05, 13.05])]


def test_a_key_that_some_arms_leave_alone_has_the_value_of_the_config() -> None:
    found = made(GRID)
    run = dataclasses.replace(found.arms[0].runs[0], config={'y': 0.0})
    first = Arm('a0', {'x': 1}, (run,))
    assert first.setting('y') == 0.0
    found = dataclasses.replace(found, arms=(first, *found.arms[1:]))
    assert factors.factor_keys(found) == ['x', 'y']


def test_grids_and_searches_are_told_apart() -> None:
    search = made(sample(12, {'x': log_uniform(0.01, 1), 'y': log_uniform(0.01, 1)}))
    assert factors.factor_keys(search) == [] and searches.search_keys(search) == ['x', 'y']
    assert factors.factor_keys(made(GRID)) == ['x', 'y'] and searches.search_keys(made(GRID)) == []
    assert factors.factor_keys(made(grid({'x': ('a', 'b', 'c')}))) == []


def test_curves_are_of_finished_runs_where_there_are_any() -> None:
    found = made(GRID, states={(1, 1): 'failed', (2, 0): 'pruned', (2, 1): 'pruned'})
    lines = {line.get_label(): line for line in curves.curves(found, ()).axes[0].lines}
    assert [*lines['a1'].get_ydata()] == [13.0, 12.0, 11.0]  # the seed that failed is left out
    assert lines['a2 (pruned)'].get_linestyle() == '--'
    assert lines['a0 (baseline)'].get_color() == 'black'


def test_the_line_of_costs_goes_through_what_nothing_cheaper_beats() -> None:
    found = made(({'x': 3}, {'x': 4}, {'x': 1}, {'x': 2}), seeds=1)
    panel = costs.costs(found, ()).axes[0]
    line = next(line for line in panel.lines if line.get_label() == 'best for its cost')
    assert [*line.get_xdata()] == [150, 450] and [*line.get_ydata()] == [3, 1]


def test_pruned_runs_are_no_points_of_costs_and_differences() -> None:
    found = made(GRID, states={(2, 0): 'pruned', (2, 1): 'pruned'})
    points = [c for c in costs.costs(found, ()).axes[0].containers]
    assert len(points) == len(GRID) - 1
    rows = forest.forest(found, compare(found)).axes[0].get_yticklabels()
    assert len(rows) == len(GRID) - 2 and not any('a2' in row.get_text() for row in rows)


def test_many_arms_stay_readable() -> None:
    found = made([{'x': i} for i in range(60)])
    assert len(colours(found)) == 9 and colours(found)['a0'] == 'black'
    ax = forest.forest(found, compare(found)).axes[0]
    assert len(ax.get_yticklabels()) == forest.MOST and 'the 40 best of 59' in ax.get_title()
    labels = [text.get_text() for text in curves.curves(found, ()).axes[0].get_legend().texts]
    assert labels[-1] == '51 others' and len(labels) == 10
    long = 'learning_rate=0.00817,weight_decay=0.0137,depth=7,dro-7b9b61'
    assert short(long).endswith('-7b9b61') and len(short(long)) == 44
