"""A search: proposals go into the plan, are trained, resumed and learnt from."""

import json
import math
import random
import sys

import pytest

from bigmodel.commands.main import main
from bigmodel.errors import UserError
from bigmodel.sweeps.arms import choice, integer, log_uniform, uniform
from bigmodel.sweeps.folder import SweepDir, metric_of
from bigmodel.sweeps.plan import Job, Plan, from_json, read_plan, selected
from bigmodel.sweeps.preflight import Builder, preflight
from bigmodel.sweeps.search import Searching, with_found
from bigmodel.sweeps.spaces import as_text
from bigmodel.sweeps.spaces import from_json as space_from_json
from bigmodel.sweeps.status import status
from bigmodel.sweeps.worker import Worker
from bigmodel.training.rundir import RunDir

RATES = "'optimizer.learning_rate': log_uniform(1e-5, 1.0)"
SEARCH = "Sweep(search=Search(trials=%d, space={%s}, sampler='%s'))"


@pytest.fixture
def search(write, tmp_path):
    """Plans a search and opens its directory."""
    pytest.importorskip('optuna')

    def make(
        trials: int = 4, space: str = RATES, sampler: str = 'tpe(startup=2)', folder: str = 'sweep'
    ) -> SweepDir:
        sweep = SweepDir(tmp_path / folder)
        plan = preflight(read_plan(write(SEARCH % (trials, space, sampler))))
        sweep.write_plan(with_found(sweep, plan))
        return sweep

    return make


def planted(sweep: SweepDir, count: int, builder: Builder) -> list[dict]:
    """The values of `count` more arms, of which each loss is its distance to the rate 0.01."""
    found = []
    for _ in range(count):
        plan = sweep.read_plan()
        studies = Searching(sweep, plan)
        for job in studies.ask(builder):
            values = sweep.read_plan().arm(job.arm).values
            loss = abs(math.log10(values['optimizer.learning_rate']) + 2)
            finish(sweep, studies, job, loss)
            found.append(values)
    return found


def finish(sweep: SweepDir, studies: Searching, job: Job, loss: float) -> None:
    run = RunDir(sweep.run_dir(job))
    run.path.mkdir(parents=True)
    run.metrics.write_text(json.dumps({'step': 4, 'split': 'validation', 'loss': loss}) + '\n')
    run.result.write_text('{"stopped_early": ""}')
    studies.tell(job, run)


def test_a_search_trains_what_it_finds(search) -> None:
    space = RATES + ", 'model.position': choice('rope', 'none')"
    sweep = search(3, space)
    plan = sweep.read_plan()
    assert [arm.name for arm in plan.arms] == ['base'] and plan.to_come == 3
    assert '3 to be found' in status(plan, sweep.states(plan))
    Worker(sweep, 0, 1).work(plan.jobs)
    plan = sweep.read_plan()
    assert plan.to_come == 0 and len(plan.arms) == 4
    assert all(run.state == 'done' for run in sweep.states(plan))
    assert [arm.name[:4] for arm in plan.arms[1:]] == ['001,', '002,', '003,']
    assert plan.arms[1].facts['num_params'] == plan.arms[0].facts['num_params']
    trials = {t.user_attrs['run']: t for t in Searching(sweep, plan).of(0).get_trials()}
    for run in sweep.states(plan):
        told = trials[str(run.job)]
        assert told.value == metric_of(run.records, plan.metric)[-1][1]
        values = plan.arm(run.job.arm).values
        for key, value in told.params.items():
            same = pytest.approx(value, rel=0.005) if isinstance(value, float) else value
            assert values[key] == same
    # Started again, it has nothing to do; with more trials it goes on.
    Worker(sweep, 0, 1).work(plan.jobs)
    assert sweep.read_plan() == plan
    sweep = search(4, space)
    assert sweep.read_plan().arms[:4] == plan.arms and sweep.read_plan().to_come == 1


def test_proposals_learn_and_are_the_same_after_a_stop(search) -> None:
    builder = Builder()
    together = planted(search(16, folder='a'), 16, builder)
    rates = [values['optimizer.learning_rate'] for values in together]
    off = [abs(math.log10(rate) + 2) for rate in rates]
    assert sum(off[8:]) < sum(off[:8])  # nearer to what is best
    sweep = search(16, folder='b')
    apart = planted(sweep, 9, builder) + planted(sweep, 7, builder)
    assert apart == together
    assert planted(sweep, 1, builder) == []


def test_two_workers_propose_different_values(search) -> None:
    builder, sweep = Builder(), search(4)
    studies = [Searching(sweep, sweep.read_plan()) for _ in range(2)]
    jobs = [each.ask(builder)[0] for each in (*studies, *studies)]
    plan = sweep.read_plan()
    assert len({plan.arm(job.arm).changes['optimizer.learning_rate'] for job in jobs}) == 4
    assert studies[0].ask(builder) == ()


def test_a_proposal_of_a_killed_worker_is_taken_up(search, monkeypatch) -> None:
    builder, sweep = Builder(), search(2)

    def killed(plan: Plan) -> None:
        raise KeyboardInterrupt

    studies = Searching(sweep, sweep.read_plan())
    with monkeypatch.context() as patch:
        patch.setattr(sweep, 'write_plan', killed)
        with pytest.raises(KeyboardInterrupt):
            studies.ask(builder)
    assert sweep.read_plan().asked == 0
    (proposed,) = studies.of(0).get_trials()
    (job,) = Searching(sweep, sweep.read_plan()).ask(builder)
    rate = sweep.read_plan().arm(job.arm).values['optimizer.learning_rate']
    assert rate == pytest.approx(proposed.params['optimizer.learning_rate'], rel=0.005)
    assert len(studies.of(0).get_trials()) == 1


def test_a_run_that_ended_untold_is_told_of(search) -> None:
    builder, sweep = Builder(), search(3)
    studies = Searching(sweep, sweep.read_plan())
    (job,) = studies.ask(builder)
    finish(sweep, studies=type('Dead', (), {'tell': lambda *a: None})(), job=job, loss=1.0)
    Searching(sweep, sweep.read_plan()).ask(builder)
    assert studies.of(0).get_trials()[0].value == 1.0


def test_a_failed_arm_that_is_tried_again_keeps_its_values(search) -> None:
    builder, sweep = Builder(), search(2)
    studies = Searching(sweep, sweep.read_plan())
    (job,) = studies.ask(builder)
    studies.tell(job, RunDir(sweep.run_dir(job)), 'lost')
    finish(sweep, studies, job, 1.0)
    lost, again = studies.of(0).get_trials()
    assert (lost.state.name, again.state.name) == ('PRUNED', 'COMPLETE')
    key = 'optimizer.learning_rate'
    assert again.params[key] == pytest.approx(lost.params[key], rel=0.005)


def test_a_small_space_ends_the_search(search, capsys) -> None:
    builder, sweep = Builder(), search(9, "'model.position': choice('none', 'alibi')", 'random')
    studies = Searching(sweep, sweep.read_plan())
    jobs = [studies.ask(builder), studies.ask(builder), studies.ask(builder)]
    assert [len(found) for found in jobs] == [1, 1, 0]
    assert 'were there before' in capsys.readouterr().out


def test_another_search_in_the_same_place_is_refused(search) -> None:
    builder, sweep = Builder(), search(3)
    Searching(sweep, sweep.read_plan()).ask(builder)
    with pytest.raises(UserError, match=r"holds a search with search.sampler='tpe\(startup=2\)'"):
        search(3, sampler='random')
    with pytest.raises(UserError, match=r'holds a search with search.space='):
        search(3, RATES.replace('1.0', '2.0'))


def test_chosen_arms_alone_are_trained(search) -> None:
    sweep = search(3)
    plan = sweep.read_plan()
    Worker(sweep, 0, 1).work(selected(plan, 'base'), search=False)
    assert sweep.read_plan() == plan


def test_the_command_plans_works_and_goes_on(write, tmp_path, capsys) -> None:
    pytest.importorskip('optuna')
    where = f'--workdir={tmp_path / "sweep"}'
    plan = ['sweep', '--plan', where, f'--config={write(SEARCH % (2, RATES, "tpe"))}']
    assert main(['sweep', '--list', *plan[2:]]) == 0 and main(plan) == 0
    said = capsys.readouterr().out
    assert 'optimizer.learning_rate: kind number' in said and '2 that a search is to find' in said
    assert main(['sweep', '--worker=0/1', where]) == 0
    arms = SweepDir(tmp_path / 'sweep').read_plan().arms
    assert len(arms) == 3
    assert main(plan) == 0 and main(['sweep', '--status', where]) == 0
    assert SweepDir(tmp_path / 'sweep').read_plan().arms == arms
    assert '3 done\n' in capsys.readouterr().out


def test_json_keeps_a_space() -> None:
    spaces = (uniform(0.0, 1.0), log_uniform(1, 2), integer(1, 9), choice('a', 2, ('b', 1.0)))
    for space in spaces:
        again = space_from_json(json.loads(json.dumps(space.to_json())))
        draws = random.Random(1), random.Random(1)
        assert as_text(space.draw(draws[0])) == as_text(again.draw(draws[1]))


def test_values_stay_in_their_range() -> None:
    space = uniform(0.12345, 0.12349)
    assert all(0.12345 <= space.draw(random.Random(i)) <= 0.12349 for i in range(20))


def test_json_keeps_a_search(write) -> None:
    plan = read_plan(write(SEARCH % (3, RATES, 'tpe')))
    assert from_json(json.loads(json.dumps(plan.to_json()))).search == plan.search


@pytest.mark.parametrize(
    ('trials', 'space', 'sampler', 'words'),
    [
        (3, RATES, 'tpee', "unknown sampler 'tpee'. Did you mean 'tpe'"),
        (3, RATES, 'tpe(seeds=1)', "no argument 'seeds'. Did you mean 'seed'"),
        (0, RATES, 'tpe', 'needs trials=N and a space'),
        (3, '', 'tpe', 'needs trials=N and a space'),
        (3, "'seed': integer(0, 3)", 'tpe', 'the seed is none of search.space'),
        (3, "'model.widht': integer(8, 16)", 'tpe', "Did you mean 'model.width'"),
        (3, "'model.position': choice('rope', 'alibbi')", 'tpe', 'model.position=alibbi'),
        (3, "'optimizer.learning_rate': uniform(-1.0, 1.0)", 'tpe', 'learning_rate=-1.0'),
    ],
)
def test_mistakes(write, trials, space, sampler, words) -> None:
    pytest.importorskip('optuna')
    with pytest.raises(UserError) as e:
        preflight(read_plan(write(SEARCH % (trials, space, sampler))))
    assert words in str(e.value)


@pytest.mark.parametrize(
    ('more', 'words'),
    [('seeds=(0, 1)', 'tries each arm with one seed'), ("budget='flops'", "has budget='config'")],
)
def test_what_a_search_cannot_have(write, more, words) -> None:
    with pytest.raises(UserError, match=words):
        read_plan(write((SEARCH % (3, RATES, 'tpe')).removesuffix(')') + f', {more})'))


def test_without_optuna_it_says_how_to_get_it(write, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(UserError, match='search of a sweep needs optuna: pip install optuna'):
        preflight(read_plan(write(SEARCH % (3, RATES, 'tpe'))))
