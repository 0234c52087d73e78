"""What differs between two runs, or two configs."""

import json
import pathlib
import subprocess
import sys

import pytest

from bigmodel.commands.main import main
from tests.reports.made import falling, made_run, made_sweep

ROOT = pathlib.Path(__file__).parents[2]


def losses(path: pathlib.Path, values: dict[int, float]) -> None:
    """Puts training losses before what the run has logged."""
    file = path / 'metrics.jsonl'
    lines = [{'step': s, 'split': 'train', 'loss': v, 'seconds': s} for s, v in values.items()]
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines) + file.read_text())


def diff(capsys, *sides) -> str:
    assert main(['diff', *map(str, sides)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def pair(tmp_path):
    for name in 'ab':
        made_run(tmp_path / name, {}, 0, [(100, 1.5)])
        losses(tmp_path / name, {10: 3.0, 20: 2.0, 30: 1.75})
    return tmp_path / 'a', tmp_path / 'b'


def lines_of(text: str, word: str) -> list[str]:
    return [' '.join(line.split()) for line in text.splitlines() if word in line]


def test_runs_that_are_the_same_are_said_to_be(pair, capsys) -> None:
    text = diff(capsys, *pair)
    assert 'Nothing differs but the time they took.' in text
    assert 'identical to the last bit at all 3 steps that both logged, to step 30' in text


def test_every_difference_is_named(tmp_path, capsys) -> None:
    made_run(tmp_path / 'a', {}, 0, [(100, 1.5)], mesh={'data': 1}, git={'commit': 'abc'})
    other = {'mesh': {'data': 2}, 'git': {'commit': 'def', 'dirty': True}, 'kernel': 'fused'}
    made_run(tmp_path / 'b', {'model.position': 'alibi'}, 1, [(50, 9.0), (100, 1.25)], **other)
    losses(tmp_path / 'a', {10: 3.0, 20: 2.0, 30: 1.75, 40: 1.0})
    losses(tmp_path / 'b', {10: 3.0, 20: 2.0 + 2**-50, 30: 1.5})
    text = diff(capsys, tmp_path / 'a', tmp_path / 'b')
    assert 'Nothing differs' not in text
    assert lines_of(text, 'model.position') == ['model.position "rope" "alibi"']
    assert lines_of(text, 'seed ') == ['seed 0 1']
    assert lines_of(text, 'mesh') == ['mesh.data 1 2']
    assert lines_of(text, 'commit ') == ['git.commit "abc" "def"']
    assert lines_of(text, 'kernel') == ['kernel "reference" "fused"']
    assert 'The code of B had uncommitted changes' in text
    assert lines_of(text, 'validation/loss') == ['validation/loss 1.5 (100) 1.25 (100) -0.25']
    assert 'until step 10, differs from step 20 on' in text
    assert 'at step 30 1.75 and 1.5, B - A -0.25; A has gone further' in text
    assert 'seconds: 10 and 10, B/A 1.00' in text


def test_a_run_that_diverged_equals_itself(pair, capsys) -> None:
    for path in pair:
        losses(path, {40: float('nan')})
    assert 'Nothing differs' in diff(capsys, *pair)


def test_a_run_under_way_and_one_without_a_metric(pair, capsys) -> None:
    a, b = pair
    (b / 'result.json').unlink()
    text = (b / 'metrics.jsonl').read_text()
    (b / 'metrics.jsonl').write_text(text.replace('validation', 'other') + '{"step": 9')
    said = diff(capsys, a, b)
    assert 'B has not finished' in said and 'Nothing differs' not in said
    assert lines_of(said, 'validation/loss') == ['validation/loss 1.5 (100) B has none']


def test_configs_are_compared_with_their_sizes_filled_in(tmp_path, capsys) -> None:
    for name, size in {'a': 'tiny', 'b': 'mini'}.items():
        code = 'from experiments import defaults\n\n\ndef get_config(arg=""):\n'
        code += f'    c = defaults.get_config()\n    c.model.size = "{size}"\n'
        code += '    c.num_steps = int(arg or 7)\n    return c\n'
        (tmp_path / f'{name}.py').write_text(code)
    text = diff(capsys, tmp_path / 'a.py', f'{tmp_path / "b.py"}:9')
    assert lines_of(text, 'model.depth') == ['model.depth 4 6']
    assert lines_of(text, 'num_steps') == ['num_steps 7 9']
    assert 'Nothing differs in the configs' in diff(capsys, *[tmp_path / 'a.py'] * 2)
    made_run(tmp_path / 'run', {'model.depth': 5}, 0, [(100, 1.5)])
    text = diff(capsys, tmp_path / 'run', tmp_path / 'a.py')
    assert lines_of(text, 'model.depth') == ['model.depth 5 4']


def test_what_is_no_run_is_refused(tmp_path, capsys) -> None:
    made_run(tmp_path / 'a', {}, 0, [(100, 1.5)])
    sweep = made_sweep(tmp_path / 's', {'x': {}}, (0,), lambda c, s: falling(1.0, 0.0, s))
    (tmp_path / 'empty').mkdir()
    for other, words in {
        tmp_path / 'empty': 'holds no run',
        tmp_path / 'nowhere': 'does not exist',
        tmp_path / 'nowhere.py': 'does not exist',
        sweep.path: 'is a sweep: give two of its runs, such as',
    }.items():
        assert main(['diff', str(tmp_path / 'a'), str(other)]) == 2
        assert words in capsys.readouterr().err
    assert main(['diff', str(tmp_path / 'a')]) == 2
    assert 'needs two' in capsys.readouterr().err


def test_it_needs_no_jax(pair) -> None:
    code = (
        f'import sys\nfrom bigmodel.commands.main import main\nmain(["diff", *{[*map(str, pair)]}])'
    )
    code += '\nassert "jax" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT, capture_output=True)
