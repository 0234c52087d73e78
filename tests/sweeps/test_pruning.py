"""Which runs are ended, checked by hand against the rule; a real sweep that ends one."""

import json
import random
import sys

import pytest

from bigmodel.errors import UserError
from bigmodel.sweeps.folder import SweepDir
from bigmodel.sweeps.plan import Job, Plan, read_plan
from bigmodel.sweeps.preflight import preflight
from bigmodel.sweeps.pruning import build_pruning
from bigmodel.sweeps.status import status
from bigmodel.sweeps.studies import Studies, open_studies
from bigmodel.sweeps.worker import Worker
from bigmodel.training.rundir import RunDir

STEPS = tuple(range(2, 21, 2))
NINE = """Sweep(
    grid({'num_steps': (20,), 'optimizer.learning_rate': tuple(n / 100 for n in range(1, 10))}),
    seeds=(0, 1), better='%s', prune='halving(first=2, reduction=3)',
)"""


@pytest.fixture
def studies(write, tmp_path):
    """Opens the studies of nine arms whose values are planted, anew at each call."""
    pytest.importorskip('optuna')
    folder = tmp_path / 'sweep'

    def make(better: str = 'min') -> tuple[Plan, SweepDir, Studies]:
        plan = preflight(read_plan(write(NINE % better)))
        sweep = SweepDir(folder)
        sweep.write_plan(plan)
        return plan, sweep, Studies(sweep, plan)

    return make


def plant(sweep: SweepDir, job: Job, values: dict[int, float]) -> RunDir:
    run = RunDir(sweep.run_dir(job))
    run.path.mkdir(parents=True, exist_ok=True)
    records = ({'step': s, 'split': 'validation', 'loss': v} for s, v in values.items())
    run.metrics.write_text(''.join(json.dumps(r) + '\n' for r in records))
    return run


def train(sweep: SweepDir, studies: Studies, job: Job, values: dict[int, float]) -> tuple[int, str]:
    """Where a run with these values ends, and why."""
    for step in values:
        run = plant(sweep, job, {s: v for s, v in values.items() if s <= step})
        reason = studies.reason_to_stop(job, run)
        if reason or step == max(values):
            studies.tell(job, run)
            return step, reason
    raise AssertionError


def asha(curves: list[dict[int, float]], better: str) -> list[int]:
    """Li et al. 2020, algorithm 2, for runs one after the other of which each goes on at once: at
    rung r·η^k it is promoted when it is in the best ⌊n/η⌋ (at least one) of the n that came there.
    """
    sign, ends, rungs = {'min': 1, 'max': -1}[better], [], {2: [], 6: [], 18: []}
    for i, curve in enumerate(curves):
        end = 20
        for rung, there in rungs.items():
            there.append(sign * curve[rung])
            best = sorted(there)[: max(len(there) // 3, 1)]
            if sign * curve[rung] not in best and end == 20:
                end = rung
                if i:  # the baseline goes on
                    break
                end = 20
        ends.append(end)
    return ends


@pytest.mark.parametrize('better', ['min', 'max'])
def test_the_ended_are_those_of_the_rule(studies, better) -> None:
    plan, sweep, opened = studies(better)
    draw = random.Random(1)
    curves = [{step: draw.random() for step in STEPS} for _ in plan.arms]
    curves[0] |= dict.fromkeys(STEPS, {'min': 2.0, 'max': -2.0}[better])  # a bad baseline
    ends = [
        train(sweep, opened, Job(arm.name, 0), curve)[0]
        for arm, curve in zip(plan.arms, curves, strict=True)
    ]
    assert ends == asha(curves, better)
    assert ends[0] == 20 and len(set(ends)) > 2


def test_seeds_are_compared_among_themselves(studies) -> None:
    plan, sweep, opened = studies()
    good, bad, worse = (Job(arm.name, 0) for arm in plan.arms[:3])
    assert train(sweep, opened, good, dict.fromkeys(STEPS, 1.0))[1] == ''
    step, reason = train(sweep, opened, bad, dict.fromkeys(STEPS, 2.0))
    assert step == 2 and reason.startswith('pruned at step 2 by halving(first=2')
    other = Job(worse.arm, 1)
    assert train(sweep, opened, other, dict.fromkeys(STEPS, 3.0)) == (20, '')


def test_a_resumed_run_tells_nothing_twice_and_keeps_its_end(studies, recwarn) -> None:
    plan, sweep, opened = studies()
    good, bad = (Job(arm.name, 0) for arm in plan.arms[:2])
    train(sweep, opened, good, dict.fromkeys(STEPS, 1.0))
    run = plant(sweep, bad, {2: 1.0, 4: 1.0, 6: 2.0})  # ended at 6, and killed before it said so
    first = opened.reason_to_stop(bad, run)
    assert first.startswith('pruned at step 6')
    _, _, again = studies()  # another process
    assert again.reason_to_stop(bad, plant(sweep, bad, {2: 1.0})) == ''  # back to a checkpoint
    assert again.reason_to_stop(bad, plant(sweep, bad, {2: 1.0, 4: 1.0})) == ''
    assert again.reason_to_stop(bad, plant(sweep, bad, {2: 1.0, 4: 1.0, 6: 2.0})) == first
    trials = again.of(0).get_trials()
    assert [t.intermediate_values for t in trials[1:]] == [{2: 1.0, 4: 1.0, 6: 2.0}]
    again.tell(bad, run)
    assert again.of(0).get_trials()[1].state.name == 'PRUNED'
    assert not [w for w in recwarn if 'already reported' in str(w.message)]


def test_a_value_that_is_no_number_loses(studies) -> None:
    plan, sweep, opened = studies()
    nan = dict.fromkeys(STEPS, float('nan'))
    assert train(sweep, opened, Job(plan.arms[3].name, 0), nan)[0] == 2


def test_a_sweep_ends_its_loser(write, tmp_path) -> None:
    pytest.importorskip('optuna')
    sweep = SweepDir(tmp_path / 'sweep')
    arms = "grid({'optimizer.learning_rate': (1e-2, 1e-9)})"
    plan = preflight(read_plan(write(f"Sweep({arms}, prune='halving(first=2)')")))
    sweep.write_plan(plan)
    Worker(sweep, 0, 1).work(plan.jobs)
    runs = sweep.states(plan)
    assert [run.state for run in runs] == ['done', 'pruned']
    assert [run.result['steps'] for run in runs] == [4, 2]
    assert '1 done, 1 pruned' in status(plan, runs)
    states = [trial.state.name for trial in Studies(sweep, plan).of(0).get_trials()]
    assert states == ['COMPLETE', 'PRUNED']


@pytest.mark.parametrize(
    ('sweep', 'words'),
    [
        ("[{}], prune='halvin(first=2)'", "unknown prune 'halvin'. Did you mean 'halving'"),
        ("[{}], prune='halving'", "needs the argument 'first'"),
        ("[{}], prune='halving(first=2, reduction=1)'", 'must be at least 2'),
        ("[{}], prune='halving(first=0)'", 'must be positive'),
        ("[{}], prune='halving(first=4)'", 'not before the end of a run of 4 steps'),
        ("[{}], prune='halving(first=3)'", 'every 2; use first=2'),
        ("grid({'num_steps': (4, 8)}), prune='halving(first=2)'", 'num_steps=4 trains for 4'),
    ],
)
def test_mistakes(write, sweep, words) -> None:
    pytest.importorskip('optuna')
    with pytest.raises(UserError) as e:
        preflight(read_plan(write(f'Sweep({sweep})')))
    assert words in str(e.value)


def test_without_pruning_nothing_is_kept_and_optuna_is_not_needed(
    write, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, 'optuna', None)
    plan = preflight(read_plan(write('Sweep([{}])')))
    sweep = SweepDir(tmp_path)
    assert open_studies(sweep, plan).reason_to_stop(plan.jobs[0], RunDir(tmp_path)) == ''
    assert not sweep.studies.exists()
    with pytest.raises(UserError, match='prune of a sweep needs optuna: pip install optuna'):
        preflight(read_plan(write("Sweep([{}], prune='halving(first=2)')")))
    assert build_pruning('none').check(plan, plan.arms) is None
