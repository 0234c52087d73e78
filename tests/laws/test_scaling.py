"""`scaling` on directories: of a sweep, of runs, and of what cannot be fitted."""

import json
import math
import pathlib

import numpy as np
import pytest

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.laws.fitted import read
from bigmodel.laws.law import Law
from bigmodel.laws.points import read_points
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.counts import flops_per_row
from bigmodel.sweeps.plan import Job, read_plan
from bigmodel.training.state import abstract_params
from experiments.ablations import scaling as card
from tests.reports.made import made_run, made_sweep

ROOT = pathlib.Path(__file__).parents[2]
RANGE = (1.0, 2.0)
PLANTED = Law(0.8, 20.0, 400.0, 0.3, 0.4, 'planted', RANGE, RANGE, RANGE)
SIZES = (30_000, 60_000, 120_000, 240_000, 480_000)
BUDGETS = (4e12, 16e12, 64e12)


def planted_runs(folder: pathlib.Path, noise: float = 0.0, **facts) -> pathlib.Path:
    """Iso-FLOP runs of a planted law, 6 FLOPs a parameter and token."""
    draw = np.random.default_rng(0)
    for flops in BUDGETS:
        for size in SIZES:
            steps = round(flops / (6 * size) / 1000)
            loss = PLANTED.loss(size, steps * 1000) * math.exp(noise * draw.standard_normal())
            counts = {'num_params': size, 'num_embedding': 10_000, 'flops_per_token': 6 * size}
            counts |= {'tokens_per_step': 1000, 'vocab_size': 257}
            changes = {'model.width': size, 'num_steps': steps}
            name = f'{flops:g}-{size}'
            made_run(folder / name, changes, 0, [(1, 9.0), (steps, loss)], **counts | facts)
    return folder


def test_the_planted_law_is_found_drawn_and_used(tmp_path, capsys) -> None:
    runs = planted_runs(tmp_path / 'runs', noise=5e-4)
    assert main(['scaling', str(runs), '--bootstrap=10', f'--output={tmp_path / "out"}']) == 0
    text = capsys.readouterr().out
    assert '15 runs (0 unfinished ones left out), validation/loss in nats' in text
    assert 'C = 6·N·D' in text and 'by 3 iso-FLOP profiles' in text
    found = read(tmp_path / 'out' / 'scaling.json')
    assert found.law.alpha == pytest.approx(0.3, rel=0.05)
    assert found.law.beta == pytest.approx(0.4, rel=0.05)
    assert (len(found.draws), found.vocab_size) == (10, 257)
    assert found.law.params == (30_000, 480_000)
    assert (tmp_path / 'out' / 'scaling.png').stat().st_size > 20_000
    assert main(['size', '--flops=1e13', f'--fit={tmp_path / "out" / "scaling.json"}']) == 0
    assert 'by a fit to 15 runs' in capsys.readouterr().out


def test_a_sweep_without_budgets_of_equal_flops(tmp_path, capsys) -> None:
    arms = {
        f'{width}-{steps}': {'model.depth': width, 'num_steps': steps}
        for width in (1, 3, 10)
        for steps in (100, 700, 5000)
    }

    def curve(changes, seed):
        params = 1000 * changes['model.depth']
        return [(changes['num_steps'], PLANTED.loss(params, 64 * changes['num_steps']))]

    sweep = made_sweep(tmp_path / 's', arms, (0,), curve)
    last = sweep.run_dir(Job('1-100', 0))
    (last / 'result.json').unlink()
    assert main(['scaling', str(sweep.path), '--bootstrap=0']) == 0
    text = capsys.readouterr().out
    assert '8 runs (1 unfinished ones left out)' in text and 'not known' in text
    assert '0 budgets have their best size between two others' in text
    plain = json.loads((sweep.path / 'scaling.json').read_text())
    assert plain['law']['alpha'] == pytest.approx(0.3, rel=1e-2)
    assert plain['powers'] == [] and (sweep.path / 'scaling.png').exists()


def test_points_are_the_ends_of_runs(tmp_path) -> None:
    folder = planted_runs(tmp_path / 'runs')
    points = read_points([folder])
    i = int(np.argmax(points.tokens))
    assert points.params[i] == 30_000 and points.flops[i] == pytest.approx(64e12, rel=1e-4)
    assert points.loss[i] == pytest.approx(PLANTED.loss(30_000, points.tokens[i]))
    without = read_points([folder], counts='non_embedding')
    assert sorted(set(without.params)) == [size - 10_000 for size in SIZES]


def test_the_cards_arms_take_the_flops_of_their_budgets() -> None:
    plan = read_plan(str(ROOT / 'experiments' / 'ablations' / 'scaling.py'))
    assert len(plan.arms) == len(card.BUDGETS) * len(card.SIZES)
    for arm in plan.arms:
        config = plan.config(arm, 0)
        presets.resolve(config.model, config.data.seq_len)
        boxed = abstract_params(build_model(config.model, 257, 0, 'cpu'))
        name, _, budget = arm.name.partition('-')
        row = flops_per_row(config.model, boxed, config.data.seq_len)
        assert row == card.SIZES[name][3] * config.data.seq_len
        total = row * config.data.batch_size * config.num_steps
        assert total == pytest.approx(float(budget), rel=0.005)


def refused(words: str, *arguments, **options) -> None:
    with pytest.raises(UserError, match=words):
        read_points(*arguments, **options)


def test_what_no_law_can_be_of(tmp_path) -> None:
    folder = planted_runs(tmp_path / 'runs')
    refused('choose all or non_embedding', [folder], counts='most')
    refused('is no loss in nats', [folder], metric='validation/accuracy')
    refused("no run has logged 'validation/nll'", [folder], metric='validation/nll')
    refused('4 of 4 runs have finished', sorted(folder.glob('4e*'))[:4])
    (tmp_path / 'empty').mkdir()
    refused('neither a sweep nor runs', [tmp_path / 'empty'])
    one = folder / '4e+12-30000' / 'run.json'
    facts = json.loads(one.read_text())
    one.write_text(json.dumps(facts | {'data_fingerprint': 'other'}))
    refused('of 2 data sets', [folder])
    one.write_text(json.dumps(facts | {'flops_per_token': 0}))
    refused('how many FLOPs', [folder])
    del facts['num_embedding']
    one.write_text(json.dumps(facts))
    refused('use --params=all', [folder], counts='non_embedding')


def test_bad_arguments(tmp_path, capsys) -> None:
    for arguments, words in {
        (): 'needs the directory of a sweep',
        ('x', '--workdir=y'): 'reads directories alone',
        ('x', '--bootstrap=-1'): 'must not be negative',
        (str(tmp_path / 'nowhere'),): 'is no directory',
    }.items():
        assert main(['scaling', *arguments]) == 2
        assert words in capsys.readouterr().err
