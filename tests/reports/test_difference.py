"""What differs between two runs, and since when."""

import pathlib

import pytest

from bigmodel.commands.main import main
from tests.reports.made import falling, made_run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def two(tmp_path) -> list[str]:
    """Runs of one seed and curve, the second with another position and more parameters."""
    curve = falling(1.0, 0.1, 0)
    made_run(tmp_path / 'a', {}, 0, curve)
    made_run(tmp_path / 'b', {'model.position': 'alibi'}, 0, curve, num_params=7)
    return [str(tmp_path / name) for name in 'ab']


def test_two_runs(two, capsys) -> None:
    assert main(['diff', *two]) == 0
    out = capsys.readouterr().out
    assert "model.position: '' -> 'alibi'" in out
    assert 'parameters: 1000 -> 7' in out and 'versions' not in out
    assert 'All 10 records that are in both are the same to the last bit.' in out


def test_the_first_step_that_differs(two, tmp_path, capsys) -> None:
    path = tmp_path / 'b' / 'metrics.jsonl'
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace('"loss": 1', '"loss": 7')
    path.write_text('\n'.join(lines) + '\n')
    assert main(['diff', *two]) == 0
    assert 'The same to the last bit up to step 40; at step 50 validation/loss is 1.' in (
        capsys.readouterr().out
    )


def test_a_run_and_itself(two, capsys) -> None:
    assert main(['diff', two[0], two[0]]) == 0
    out = capsys.readouterr().out
    assert 'config:\n  the same' in out and 'recorded:\n  the same' in out


def test_two_configs(capsys) -> None:
    cards = [str(ROOT / 'experiments' / f'{n}.py') for n in ('quickstart', 'quickstart_finetune')]
    assert main(['diff', *cards]) == 0
    assert "task: 'causal_lm' -> 'classification'" in capsys.readouterr().out


def test_mistakes(two, tmp_path, capsys) -> None:
    card = str(ROOT / 'experiments' / 'quickstart.py')
    for argv, words in (
        (two[:1], 'diff needs two runs'),
        ([two[0], card], 'not one of each'),
        ([two[0], str(tmp_path)], 'is neither a run directory'),
    ):
        assert main(['diff', *argv]) == 2
        assert words in capsys.readouterr().err
