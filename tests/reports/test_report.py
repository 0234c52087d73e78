"""The pages and pictures of a report, of whole and of broken directories."""

import csv
import json
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from bigmodel.commands.main import main
from bigmodel.sweeps.arms import grid, integer, log_uniform, sample
from bigmodel.sweeps.names import arm_names
from bigmodel.sweeps.plan import Job
from tests.reports.made import falling, made_run, made_sweep

GRID = grid({'model.position': ('rope', 'alibi'), 'optimizer.learning_rate': (0.001, 0.1)})


def named(arms) -> dict:
    return dict(zip(arm_names(arms), arms, strict=True))


@pytest.fixture
def swept(tmp_path):
    def curve(changes, seed):
        value = {'rope': 1.5, 'alibi': 1.0}[changes['model.position']]
        return falling(value + changes['optimizer.learning_rate'], 0.01, seed)

    return made_sweep(tmp_path / 'made', named(GRID), (0, 1, 2), curve)


def read(sweep, name: str) -> str:
    return (sweep.path / 'report' / name).read_text()


def test_a_report_is_whole(swept, capsys) -> None:
    assert main(['report', str(swept.path)]) == 0
    assert (
        'alibi,learning_rate=0.001 is better than rope,learning_rate=0.001'
        in capsys.readouterr().out
    )
    page = read(swept, 'report.html')
    assert page.count('data:image/png;base64,') == 3  # all cost the same: no picture of that
    assert 'http' not in page.replace('http-equiv', '')  # opens without a network
    assert 'Does anything help?' in page and '<dt>data fingerprint</dt><dd>data</dd>' in page
    assert page.count('--config=experiments/made.py') == 1 + 12
    text = read(swept, 'report.md')
    table = [line for line in text.splitlines() if line.startswith('| ')]
    assert len(table) == 2 + 4 + 2 * (2 + 2)  # of all arms, and of the best of each factor
    assert table[2].startswith('| alibi,learning_rate=0.001 |')
    best = 'Best by its mean, alibi,learning_rate=0.001: model.position=alibi, '
    assert best + 'optimizer.learning_rate=0.001.' in text and best in page
    rows = list(csv.DictReader(read(swept, 'report.csv').splitlines()))
    assert len(rows) == 12 and rows[0]['model.position'] == 'rope'
    assert float(rows[0]['flops']) == 6000 * 64 * 100
    for name in ('differences', 'curves', 'factors'):
        assert (swept.path / 'report' / f'{name}.png').stat().st_size > 5_000


def test_a_report_needs_no_jax(swept) -> None:
    code = (
        'import sys; from bigmodel.commands.main import main; '
        f'assert main(["report", {str(swept.path)!r}]) == 0; '
        'assert "jax" not in sys.modules and "flax" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_a_sweep_under_way(swept, capsys) -> None:
    failed, pruned, half, waiting = (Job(arm, 2) for arm in named(GRID))
    for job in (failed, half, waiting):
        (swept.run_dir(job) / 'result.json').unlink()
    swept.fail(failed, 'the loss is nan at step 7')
    (swept.run_dir(pruned) / 'result.json').write_text('{"stopped_early": "pruned at step 10"}')
    with open(swept.run_dir(half) / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 110, "split": "valid')  # killed while it wrote
    (swept.run_dir(waiting) / 'metrics.jsonl').unlink()
    assert main(['report', str(swept.path)]) == 0
    text = read(swept, 'report.md')
    for words in (
        '1 of 12 runs: pruned, and not compared.',
        '1 of 12 runs: failed',
        '1 of 12 runs: stopped',
        '1 of 12 runs: waiting',
        '/seed2 | failed | 100 | 1.5',
        'the loss is nan at step 7 |',
        'baseline (1 of 3 failed)',
        'too few seeds (1 of 3 pruned)',
    ):
        assert words in text, words
    assert 'Traceback' not in text
    states = {
        (r['arm'], r['seed']): r for r in csv.DictReader(read(swept, 'report.csv').splitlines())
    }
    assert states[half.arm, '2']['steps'] == '100'
    assert (
        states[pruned.arm, '2']['state'] == 'pruned' and states[pruned.arm, '2']['validation/loss']
    )


def test_what_is_unfair_is_flagged(tmp_path) -> None:
    def curve(changes, seed):
        return falling(1.0, 0.01, seed)

    arms = named(grid({'model.depth': (1, 2)}))
    sweep = made_sweep(tmp_path / 'made', arms, (0, 1, 2), curve)
    run = sweep.run_dir(Job('depth=2', 1)) / 'run.json'
    facts = json.loads(run.read_text())
    facts |= {'data_fingerprint': 'other', 'git': {'commit': 'def', 'dirty': True}}
    run.write_text(json.dumps(facts))
    assert main(['report', str(sweep.path)]) == 0
    text = read(sweep, 'report.md')
    assert 'Arms differ in parameters: from 1,000 (depth=1) to 2,000 (depth=2), 2.00 times.' in text
    assert 'Arms differ in training FLOPs' in text
    assert 'data (fingerprint): data: 5 runs (depth=1, depth=2); other: 1 run (depth=2).' in text
    assert (
        'Runs differ in code (commit): abc: 5 runs (depth=1, depth=2); def: 1 run (depth=2).'
        in text
    )
    assert '1 of 6 runs were of code with uncommitted changes.' in text
    assert (sweep.path / 'report' / 'cost.png').exists()


def test_compilation_is_told_apart_from_the_time(swept) -> None:
    for seed, compiled in ((0, 60.0), (1, 2.0), (2, 1.0)):
        path = swept.run_dir(Job('rope,learning_rate=0.001', seed)) / 'result.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | {'compile_seconds': compiled}))
    assert main(['report', str(swept.path)]) == 0
    lines = [line for line in read(swept, 'report.md').splitlines() if line.startswith('| ')]
    heads, *rows = [line.strip('| ').split(' | ') for line in lines if '---' not in line]
    assert heads[-2:] == ['time', 'compilation']
    ends = {row[0]: row[-2:] for row in rows}
    assert ends['rope,learning_rate=0.001'] == ['10 s', '21 s']
    assert ends['alibi,learning_rate=0.1'] == ['10 s', 'in the time']


def test_a_search_has_parallel_coordinates(tmp_path) -> None:
    space = {'optimizer.learning_rate': log_uniform(1e-4, 1e-1), 'model.depth': integer(1, 9)}
    arms = named(sample(20, space))
    sweep = made_sweep(tmp_path / 'made', arms, (0,), lambda c, s: falling(c['model.depth'], 0, s))
    assert main(['report', str(sweep.path)]) == 0
    assert (sweep.path / 'report' / 'search.png').exists()
    assert (sweep.path / 'report' / 'keys.png').exists()
    assert not (sweep.path / 'report' / 'factors.png').exists()


def test_one_numeric_factor_has_its_picture_and_the_rest_of_a_page_goes(tmp_path) -> None:
    arms = named(grid({'optimizer.learning_rate': (0.001, 0.01, 0.1)}))
    sweep = made_sweep(tmp_path / 'made', arms, (0,), lambda c, s: falling(1.0, 0.01, s))
    (sweep.path / 'report').mkdir()
    (sweep.path / 'report' / 'search.png').write_text('of an earlier report')
    assert main(['report', str(sweep.path)]) == 0
    drawn = {path.name for path in (sweep.path / 'report').glob('*.png')}
    assert drawn == {'differences.png', 'curves.png', 'factors.png'}
    head = next(line for line in read(sweep, 'report.md').splitlines() if line.startswith('| arm'))
    assert 'adjusted p' not in head and ' sd ' not in head  # one seed: nothing to show there


def test_runs_without_a_sweep_become_arms(tmp_path, capsys) -> None:
    for position in ('rope', 'alibi'):
        for seed in range(3):
            curve = falling(1.0 + (position == 'rope'), 0.01, seed)
            made_run(tmp_path / f'{position}-{seed}', {'model.position': position}, seed, curve)
    output = tmp_path / 'report'
    argv = ['report', str(tmp_path), f'--output={output}', '--baseline=rope']
    assert main(argv) == 0
    assert 'alibi is better than rope' in capsys.readouterr().out
    assert len((output / 'report.csv').read_text().splitlines()) == 7


def test_several_sweeps_are_one_report(swept, tmp_path, capsys) -> None:
    arms = named(grid({'model.position': ('none', 'rope'), 'optimizer.learning_rate': (0.001,)}))
    names = {'none,learning_rate=0.001': arms.pop('none'), 'again': arms.pop('rope')}
    more = made_sweep(tmp_path / 'more', names, (3, 4), lambda c, s: falling(1.2, 0.01, s))
    (more.run_dir(Job('again', 4)) / 'result.json').write_text('{"stopped_early": "pruned"}')
    output = tmp_path / 'both'
    assert main(['report', str(swept.path), str(more.path), f'--output={output}']) == 0
    rows = list(csv.DictReader((output / 'report.csv').read_text().splitlines()))
    base = [row for row in rows if row['arm'] == 'rope,learning_rate=0.001']
    assert len(rows) == 16 and [row['seed'] for row in base] == ['0', '1', '2', '3', '4']
    assert [row['state'] for row in base] == ['done'] * 4 + ['pruned']
    assert 'is better than rope,learning_rate=0.001' in capsys.readouterr().out
    # Both at once from the folder above them.
    assert main(['report', str(tmp_path), f'--output={output}']) == 0
    assert len((output / 'report.csv').read_text().splitlines()) == 17


def test_runs_that_never_began_are_in_a_report_of_several_sweeps(swept, tmp_path) -> None:
    arms = named(grid({'model.position': ('none',), 'optimizer.learning_rate': (0.001,)}))
    more = made_sweep(tmp_path / 'more', arms, (0, 1), lambda c, s: falling(1.2, 0.01, s))
    never = Job('rope,learning_rate=0.1', 2)
    for sweep, job in ((swept, never), (more, Job(*arms, 0)), (more, Job(*arms, 1))):
        shutil.rmtree(sweep.run_dir(job))
    swept.fail(never, 'out of memory')
    more.fail(Job(*arms, 0), 'no such file')
    output = tmp_path / 'both'
    assert main(['report', str(swept.path), str(more.path), f'--output={output}']) == 0
    rows = list(csv.DictReader((output / 'report.csv').read_text().splitlines()))
    lost = {(r['arm'], r['seed']): (r['state'], r['error']) for r in rows if r['state'] != 'done'}
    none = 'none,learning_rate=0.001'
    assert len(rows) == 12 + 2 and lost == {
        ('rope,learning_rate=0.1', '2'): ('failed', 'out of memory'),
        (none, '0'): ('failed', 'no such file'),
        (none, '1'): ('waiting', ''),
    }
    assert '2 of 14 runs: failed, and not compared.' in (output / 'report.md').read_text()


def test_the_same_run_twice_is_flagged(tmp_path) -> None:
    for name in ('a', 'b'):
        made_run(tmp_path / name, {}, 0, falling(1.0, 0.01, 0), command='launch.py --config=x.py')
    assert main(['report', str(tmp_path)]) == 0
    text = (tmp_path / 'report' / 'report.md').read_text()
    assert 'Several runs have one arm and seed' in text and 'is the only arm' in text
    for name in 'ab':
        assert f'    python launch.py --config=x.py --workdir={tmp_path / name}-redo' in text


def test_commands_leave_what_is_there(swept, tmp_path) -> None:
    made = 'launch.py --config=x.py --config.task={} --workdir {}'
    for name, task in (('quoted', "'causal_lm(z_loss=0.1)'"), ('older', 'causal_lm(z_loss=0.1)')):
        path = tmp_path / 'runs' / name
        made_run(path, {}, 0, falling(1.0, 0.01, 0), command=made.format(task, path))
    apart = tmp_path / 'runs'
    for folders, counts in (([swept.path], 13), ([apart], 2), ([swept.path, apart], 14)):
        output = tmp_path / 'out'
        assert main(['report', *map(str, folders), f'--output={output}']) == 0
        lines = (output / 'report.md').read_text().splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith('    python launch.py')]
        places = [[w for w in words if w.startswith('--workdir')] for words in commands]
        there = [pathlib.Path(place.removeprefix('--workdir=')) for (place,) in places]
        assert len(set(there)) == len(there) == counts
        assert not any(path.exists() for path in there)
        assert {w for words in commands for w in words if 'task=' in w} <= {
            '--config.task=causal_lm(z_loss=0.1)'
        }


def test_mistakes(swept, tmp_path, capsys) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'config.json').write_text('{"model_type": "bert"}')
    for argv, words in (
        ([], 'report needs the directory of a sweep'),
        ([str(empty)], 'holds neither a sweep nor runs'),
        ([str(tmp_path / 'absent')], 'is no directory'),
        ([str(swept.path), '--baseline=ropes'], 'unknown baseline'),
        (
            [str(swept.path), '--metric=validation/accuracy'],
            "no run has logged 'validation/accuracy'",
        ),
        ([str(swept.path), '--metric=validation/los'], "Did you mean 'validation/loss'?"),
        ([str(swept.path), '--metric=foo/loss'], "no run has logged 'foo/loss'"),
        ([str(foreign)], 'is no config of a run'),
        ([str(swept.path), '--config=x.py'], 'reads directories alone'),
    ):
        assert main(['report', *argv]) == 2
        assert words in capsys.readouterr().err


def test_another_measurement_is_flagged(tmp_path) -> None:
    arms = named(grid({'evals.validation.batches': (2, 4)}))
    sweep = made_sweep(tmp_path / 'made', arms, (0, 1, 2), lambda c, s: falling(1.0, 0.01, s))
    config = sweep.run_dir(Job('batches=4', 1)) / 'config.json'
    config.write_text(config.read_text().replace('"batches": 4', '"batches": 8'))
    assert main(['report', str(sweep.path)]) == 0
    text = read(sweep, 'report.md')
    assert 'Arms differ in evals.validation.batches, so validation/loss is not the same' in text
    assert 'Runs of batches=4 were trained with another evals.validation.batches than the' in text
