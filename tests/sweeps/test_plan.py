"""A sweep file becomes a plan, which JSON keeps."""

import json
import pathlib

import pytest

from bigmodel import config as config_lib
from bigmodel.errors import UserError
from bigmodel.sweeps.plan import Job, from_json, read_plan, selected

POSITIONS = "Sweep(grid({'model.position': ('rope', 'alibi')}), seeds=(0, 1), baseline='alibi')"


def test_the_plan_of_a_file(write) -> None:
    plan = read_plan(write(POSITIONS), [('num_steps', '9')])
    assert plan.name == 'some' and plan.question == 'Does anything help?'
    assert (plan.metric, plan.better, plan.baseline) == ('validation/loss', 'min', 'alibi')
    assert [str(job) for job in plan.jobs] == [
        'rope/seed0',
        'alibi/seed0',
        'rope/seed1',
        'alibi/seed1',
    ]
    config = plan.config(plan.arm('alibi'), 1)
    assert config.model.position == 'alibi' and config.seed == 1 and config.num_steps == 9
    assert config.sharding.host_devices == 1


def test_json_keeps_the_plan(write) -> None:
    plan = read_plan(write(POSITIONS))
    again = from_json(json.loads(json.dumps(plan.to_json())))
    for job in plan.jobs:
        ours, theirs = (p.config(p.arm(job.arm), job.seed) for p in (plan, again))
        assert config_lib.diff(ours, theirs) == []


def test_the_command_of_a_run_makes_its_config(write) -> None:
    plan = read_plan(
        write("Sweep([{'optimizer.decay': (('.*', 1.0),), 'model.position': 'rope(theta=5e5)'}])"),
        [('data.seq_len', '32')],
    )
    job = Job(plan.arms[0].name, 0)
    _, _, card, *flags = plan.command(job)
    overrides = [tuple(flag.removeprefix('--config.').split('=', 1)) for flag in flags]
    config = config_lib.load(card.removeprefix('--config='), overrides)
    assert config_lib.diff(config, plan.config(plan.arms[0], 0)) == []


@pytest.mark.parametrize(
    ('sweep', 'words'),
    [
        ("Sweep([{'model.positon': 'rope'}])", "arm rope: .*Did you mean 'model.position'"),
        ("Sweep([{'model.depth': 'two'}])", 'arm two: .*expected int'),
        ("Sweep([{'seed': 1}])", r'give Sweep\(seeds='),
        ('Sweep([])', 'must be a list of dicts'),
        ('Sweep([{}], seeds=(1, 1))', 'must be a tuple of different whole numbers'),
        (
            "Sweep(grid({'model.position': ('rope', 'alibi')}), baseline='rop')",
            "Did you mean 'rope'",
        ),
        ("Sweep([{}], metric='validation/nothing')", "which way is 'nothing' better"),
        ("Sweep([{}], metric='test/loss')", "evals has no 'test'"),
        ("Sweep([{'sharding.host_devices': 2}])", 'every arm has the same'),
        ("Sweep([{'sample': 'x'}])", 'samples are written by single runs'),
        ('[{}]', 'must return a Sweep, not list'),
        ("Sweep([{'name': 'a'}, {'name': 'a', 'num_steps': 3}])", 'are both named'),
    ],
)
def test_mistakes(write, sweep, words) -> None:
    with pytest.raises(UserError, match=words):
        plan = read_plan(write(sweep))
        for job in plan.jobs:
            plan.config(plan.arm(job.arm), job.seed)


def test_a_config_without_sweep_is_refused(write, tmp_path) -> None:
    text = pathlib.Path(write('None')).read_text()
    (tmp_path / 'plain.py').write_text(text[: text.index('def sweep')])
    with pytest.raises(UserError, match=r'does not define sweep\(\)'):
        read_plan(str(tmp_path / 'plain.py'))


def test_runs_are_selected(write) -> None:
    plan = read_plan(write("Sweep(grid({'num_steps': (1, 2, 30)}), seeds=(0, 5))"))
    assert {job.arm for job in selected(plan, '*=1 *=30')} == {'num_steps=1', 'num_steps=30'}
    assert {job.seed for job in selected(plan, seeds='5')} == {5}
    with pytest.raises(UserError, match=r"no arm matches 'num_step=1'. Did you mean 'num_steps=1'"):
        selected(plan, 'num_step=1')
    with pytest.raises(UserError, match='--seeds=3: the sweep has 0, 5'):
        selected(plan, seeds='3')


def test_the_metric_is_stored_without_its_direction(write) -> None:
    plan = read_plan(write("Sweep([{}], metric='validation/x: better=max')"))
    assert (plan.metric, plan.better) == ('validation/x', 'max')


def test_seeds_are_not_overridden(write) -> None:
    with pytest.raises(UserError, match=r'--config.seed is not of a sweep'):
        read_plan(write(POSITIONS), [('seed', '3')])


def test_the_plan_of_an_older_sweep_is_read(write) -> None:
    """With a key that is gone, and without one that is new."""
    plan = read_plan(write(POSITIONS))
    plain = json.loads(json.dumps(plan.to_json()))
    assert from_json(plain) == plan
    plain['base'] |= {'baselines': []}
    del plain['base']['stop_early']
    assert from_json(plain) == plan
