"""What is checked and counted before anything runs."""

import dataclasses

import pytest

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.sweeps import budgets
from bigmodel.sweeps.plan import PlannedArm, read_plan
from bigmodel.sweeps.preflight import preflight
from bigmodel.sweeps.table import table


def planned(write, arms: str, **options: str) -> dict[str, PlannedArm]:
    given = ''.join(f', {key}={value!r}' for key, value in options.items())
    plan = preflight(read_plan(write(f'Sweep({arms}{given})')))
    return {arm.name: arm for arm in plan.arms}


def test_arms_are_counted_and_share_programs(write) -> None:
    arms = planned(
        write, "grid({'model.ffn': ('mlp', 'gated'), 'optimizer.learning_rate': (0.1, 0.2)})"
    )
    facts = [arm.facts for arm in arms.values()]
    assert [f['program'] for f in facts] == [1, 1, 2, 2]
    assert facts[0]['num_params'] != facts[2]['num_params']
    assert facts[0]['tokens'] == 4 * 8 * 16
    assert facts[0]['flops'] == facts[0]['tokens'] * facts[0]['flops_per_token']


def test_arms_that_are_the_same_are_refused(write) -> None:
    with pytest.raises(UserError, match='arms base and rope are the same run'):
        planned(write, "[{}, {'model.position': 'rope'}]")


def test_so_are_arms_that_are_only_spelt_differently(write) -> None:
    with pytest.raises(UserError, match='arms base and x are the same run'):
        planned(write, "[{}, {'name': 'x', 'model.position': 'rope(theta=10000.0)'}]")


def test_a_mistake_names_its_arm(write) -> None:
    with pytest.raises(UserError, match=r'arm alibbi: unknown model.position'):
        planned(write, "grid({'model.position': ('rope', 'alibbi')})")
    with pytest.raises(UserError, match=r'arm learning_rate=-1.0: optimizer.learning_rate=-1.0'):
        planned(write, "grid({'optimizer.learning_rate': (1.0, -1.0)})")


def test_an_arm_that_would_not_log_the_metric_is_refused(write) -> None:
    arms = "grid({'evals.validation.scores': ((), ('perplexity',))})"
    with pytest.raises(UserError, match=r"arm .*: metric: evals.validation logs no 'perplexity'"):
        planned(write, arms, metric='validation/perplexity')
    scored = "grid({'evals.validation.scores': (('perplexity',),), 'accumulate': (1,)})"
    assert len(planned(write, scored, metric='validation/perplexity')) == 1


def test_equal_flops(write) -> None:
    arms = planned(write, "grid({'model.depth': (1, 3)})", budget='flops').values()
    one, three = (arm.facts for arm in arms)
    assert three['num_steps'] < 4 == one['num_steps']
    assert three['flops'] == pytest.approx(one['flops'], rel=0.5 / three['num_steps'])


def test_equal_tokens(write) -> None:
    arms = planned(write, "grid({'data.seq_len': (16, 32)})", budget='tokens(1024)').values()
    assert [arm.facts['num_steps'] for arm in arms] == [8, 4]


def test_equal_seconds(write, monkeypatch) -> None:
    def measured(config: ConfigDict, steps: int) -> dict:
        return {'step_ms': {'median': 10.0 * config.model.depth}}

    monkeypatch.setattr(budgets, 'measure', measured)
    arms = planned(write, "grid({'model.depth': (1, 2)})", budget='seconds(1)').values()
    assert [arm.facts['num_steps'] for arm in arms] == [100, 50]
    arms = planned(write, "grid({'model.depth': (2, 1)})", budget='seconds').values()
    assert [arm.facts['num_steps'] for arm in arms] == [4, 8]  # as long as the baseline


def test_equal_parameters(write) -> None:
    arms = planned(write, "grid({'model.ffn': ('mlp', 'gated')})", budget='parameters(20000)')
    for ffn, arm in arms.items():
        widths = f"grid({{'model.width': range(4, 64, 4), 'model.ffn': ({ffn!r},)}})"
        there = {
            a.values['model.width']: a.facts['num_params'] for a in planned(write, widths).values()
        }
        nearest = min(there, key=lambda width: abs(there[width] - 20_000))
        assert arm.values['model.width'] == nearest


def test_a_budget_sets_what_no_arm_may(write) -> None:
    with pytest.raises(UserError, match='sets num_steps, which the budget is to set'):
        planned(write, "grid({'num_steps': (1, 2)})", budget='tokens')
    with pytest.raises(UserError, match=r'sets model.width'):
        planned(write, "grid({'model.width': (8, 16)})", budget='parameters')
    with pytest.raises(UserError, match="unknown budget 'token'"):
        planned(write, '[{}]', budget='token')


def test_the_table_shows_every_arm_and_the_total(write) -> None:
    plan = preflight(read_plan(write("Sweep(grid({'model.depth': (1, 2)}), seeds=(0, 1))")))
    text = table(plan, plan.jobs, workers=2)
    assert 'depth=1*' in text and 'depth=2 ' in text
    assert '2 arms (* is the baseline), 4 runs, 2 programs' in text
    alone = table(plan, plan.jobs[1:2], workers=1)
    assert 'depth=1' not in alone and '1 arms (without the baseline), 1 runs' in alone
    assert dataclasses.replace(plan, machine={}) != plan
