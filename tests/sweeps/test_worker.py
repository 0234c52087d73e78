"""Workers: a run of a sweep is the run alone; failures stay alone; nothing is done twice."""

import dataclasses
import gc
import pathlib
import time
import weakref
from typing import Any

import numpy as np
import pytest

from bigmodel.inference.run_to_end import run_to_end
from bigmodel.params import flatten
from bigmodel.sweeps.folder import SweepDir, metric_of
from bigmodel.sweeps.gangs import Group, grouped, most_together
from bigmodel.sweeps.plan import Job, Plan, read_plan
from bigmodel.sweeps.preflight import Builder, preflight
from bigmodel.sweeps.status import seconds_left, status
from bigmodel.sweeps.worker import MOST_DEATHS, Worker
from bigmodel.training.exhausted import Exhausted
from bigmodel.training.outline import resolve
from bigmodel.training.rundir import RunDir
from bigmodel.training.writers import read_jsonl

TIMES = ('seconds', 'tokens_per_second')
ARMS = """Sweep(
    chain(
        grid({'optimizer.learning_rate': (1e-3, 1e-2)}),
        {'name': 'lost', 'optimizer.learning_rate': 1e38, 'optimizer.clip_norm': 0.0},
        {'name': 'other', 'schedule': 'cosine(warmup_steps=1)', 'num_steps': 3},
    ),
    seeds=(0, 1),
)"""


@pytest.fixture
def swept(write, tmp_path) -> tuple[Plan, SweepDir]:
    plan = preflight(read_plan(write(ARMS)))
    sweep = SweepDir(tmp_path / 'sweep')
    sweep.write_plan(plan)
    return plan, sweep


def metrics(run: pathlib.Path) -> list[dict]:
    records = read_jsonl(run / 'metrics.jsonl')
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def params(run: pathlib.Path, step: int) -> dict[str, bytes]:
    from orbax.checkpoint import v1 as ocp

    state = ocp.load(run / 'checkpoints' / str(step), checkpointable_name='state')
    return {path: np.asarray(leaf).tobytes() for path, leaf in flatten(state).items()}


def test_programs_that_are_over_are_let_go(swept) -> None:
    """Or a worker would come to the end of what a process may map after some hundred programs."""
    plan, _ = swept
    builder, first = Builder(kept=1), resolve(plan.config(plan.arms[0], 0))
    gone = weakref.ref(builder(first).programs)
    assert gone() is builder(first).programs
    other = first.copy_and_resolve_references()
    other.model.position = 'none'
    builder(other)
    gc.collect()
    assert gone() is None
    assert builder.number(first) == 1


def test_only_the_first_of_a_program_takes_time_to_compile(swept) -> None:
    _, sweep = swept
    jobs = [Job('learning_rate=0.001', 0), Job('learning_rate=0.01', 0)]
    began = time.monotonic()
    Worker(sweep, 0, 1).work(jobs)
    wall = time.monotonic() - began
    first, second = (sweep.state(job).result for job in jobs)
    assert first['compile_seconds'] > 3 * second['compile_seconds']
    spent = [result['seconds'] + result['compile_seconds'] for result in (first, second)]
    assert sum(spent) < wall


def test_a_sweep_is_its_runs_alone(swept, tmp_path) -> None:
    plan, sweep = swept
    assert len({arm.facts['program'] for arm in plan.arms}) == 1
    Worker(sweep, 0, 1).work(plan.jobs)
    states = {str(run.job): run for run in sweep.states(plan)}
    # One that diverged, with its reason, and the others untouched by it.
    assert states['lost/seed0'].state == 'failed' and 'the loss is' in states['lost/seed0'].error
    assert all(run.state == 'done' for name, run in states.items() if 'lost' not in name)

    for job in (Job('learning_rate=0.01', 1), Job('other', 0)):  # neither was the first to compile
        alone = tmp_path / 'alone' / str(job)
        run_to_end(RunDir(alone), plan.config(plan.arm(job.arm), job.seed))
        theirs = sweep.run_dir(job)
        assert metrics(alone) == metrics(theirs)
        steps = plan.arm(job.arm).facts['num_steps']
        assert params(alone, steps) == params(theirs, steps)

    seeds = [metric_of(states[f'other/seed{s}'].records, plan.metric)[-1][1] for s in (0, 1)]
    assert seeds[0] != seeds[1]
    assert 'other/seed1' in status(plan, list(states.values()))
    assert seconds_left(plan, list(states.values())) == 0.0


def test_nothing_is_done_twice_and_failures_wait(swept, monkeypatch) -> None:
    plan, sweep = swept
    trained = []
    done, failed, held = plan.jobs[:3]
    sweep.run_dir(done).mkdir(parents=True)
    (sweep.run_dir(done) / 'result.json').write_text('{"stopped_early": ""}')
    sweep.fail(failed, 'the loss is nan')

    def train(self: Worker, plan: Plan, jobs: Group) -> None:
        trained.extend(jobs)
        for job in jobs:
            sweep.fail(job, 'done, for this test')

    monkeypatch.setattr(Worker, '_train', train)
    with sweep.claim(held) as ours:
        assert ours and sweep.state(held).state == 'running'
        with sweep.claim(held) as twice:
            assert not twice
        Worker(sweep, 0, 1).work(plan.jobs)
    assert set(trained) == set(plan.jobs) - {done, failed, held}
    assert [sweep.state(job).state for job in (done, failed, held)] == ['done', 'failed', 'waiting']
    sweep.forgive(failed)
    assert sweep.state(failed).state == 'waiting'


def test_what_takes_more_memory_than_there_is_says_why(swept, monkeypatch) -> None:
    plan, sweep = swept
    said = 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.'

    def run(run: RunDir, config: Any, build: Any, reason: Any) -> None:
        raise Exhausted(build(config), said)

    monkeypatch.setattr('bigmodel.sweeps.worker.run_to_end', run)
    Worker(sweep, 0, 1).work(plan.jobs[:1])
    error = sweep.state(plan.jobs[0]).error
    assert error.startswith('out of memory: the training step wants') and said in error
    assert error.count('(modelled)') == 3 and 'Traceback' not in error
    table = status(plan, sweep.states(plan))
    assert 'the training step wants' in table and said not in table


def test_a_run_that_kills_its_process_is_left_alone_in_the_end(swept, monkeypatch) -> None:
    plan, sweep = swept
    toxic = plan.jobs[0]
    for _ in range(MOST_DEATHS):
        sweep.begin(toxic)  # and the process dies
    trained = []

    def train(self: Worker, plan: Plan, jobs: Group) -> None:
        trained.extend(jobs)
        for job in jobs:
            sweep.fail(job, 'done, for this test')

    monkeypatch.setattr(Worker, '_train', train)
    Worker(sweep, 0, 1).work(plan.jobs)
    assert toxic not in trained and len(trained) == len(plan.jobs) - 1
    assert 'its process died 2 times' in sweep.state(toxic).error
    assert all(sweep.deaths(job) == 0 for job in trained)
    sweep.forgive(toxic)
    assert sweep.state(toxic).state == 'waiting' and sweep.deaths(toxic) == 0


def test_a_plan_that_was_made_anew_is_what_is_trained(swept, monkeypatch) -> None:
    plan, sweep = swept
    seen = {}

    def train(self: Worker, plan: Plan, jobs: Group) -> None:
        (job,) = jobs
        seen[job] = plan.arm(job.arm).changes
        arms = tuple(
            dataclasses.replace(arm, changes={**arm.changes, 'optimizer.learning_rate': '0.5'})
            for arm in plan.arms
            if arm.name != 'other'
        )
        sweep.write_plan(dataclasses.replace(plan, arms=arms))
        sweep.fail(job, 'done, for this test')

    monkeypatch.setattr(Worker, '_train', train)
    Worker(sweep, 0, 1).work(plan.jobs)
    rates = [changes['optimizer.learning_rate'] for changes in seen.values()]
    assert set(rates[1:]) == {'0.5'} and not any(job.arm == 'other' for job in seen)


@pytest.mark.parametrize('count', [1, 2, 3])
def test_workers_share_and_then_help(swept, count) -> None:
    plan, sweep = swept
    turns = [sum(Worker(sweep, i, count).in_turn(plan, plan.jobs), ()) for i in range(count)]
    assert all(sorted(map(str, turn)) == sorted(map(str, plan.jobs)) for turn in turns)
    assert len({turn[0] for turn in turns}) == count


def test_a_worker_begins_with_programs_of_its_own(write, tmp_path) -> None:
    plan = preflight(
        read_plan(
            write("Sweep(grid({'model.depth': (1, 2), 'optimizer.learning_rate': (1.0, 2.0)}))")
        )
    )
    sweep = SweepDir(tmp_path / 'sweep')
    sweep.write_plan(plan)
    first, second = (Worker(sweep, i, 2).in_turn(plan, plan.jobs)[:2] for i in (0, 1))
    assert {plan.arm(job.arm).facts['program'] for (job,) in first} == {2}
    assert {plan.arm(job.arm).facts['program'] for (job,) in second} == {1}


def test_runs_of_one_program_are_grouped_evenly(write) -> None:
    plan = preflight(
        read_plan(
            write("""Sweep(
                chain(
                    grid({'model.depth': (1, 2), 'optimizer.learning_rate': (1.0, 2.0, 3.0, 4.0)}),
                    {'name': 'checked', 'model.check_kernel': True},
                )
            )""")
        )
    )
    groups = grouped(plan, plan.jobs, 3)
    assert sorted(map(len, groups)) == [1, 2, 2, 2, 2]
    assert all(len({plan.arm(job.arm).facts['program'] for job in group}) == 1 for group in groups)
    assert [group[0].arm for group in groups if len(group) == 1] == ['checked']
    assert most_together(0, [{'memory_bytes': 1}]) == 1  # on CPU
    assert most_together(5, []) == 5


def test_runs_that_are_trained_together_are_those_alone(swept, tmp_path) -> None:
    plan, sweep = swept
    Worker(sweep, 0, 1, together=3).work(plan.jobs)
    states = {str(run.job): run for run in sweep.states(plan)}
    assert states['lost/seed0'].state == 'failed' and 'the loss is' in states['lost/seed0'].error
    assert all(run.state == 'done' for name, run in states.items() if 'lost' not in name)
    assert {run.result.get('together') for run in states.values()} == {2, 3, None}

    for job in (Job('learning_rate=0.01', 1), Job('other', 0)):
        alone = tmp_path / 'alone' / str(job)
        run_to_end(RunDir(alone), plan.config(plan.arm(job.arm), job.seed))
        for ours, theirs in zip(metrics(sweep.run_dir(job)), metrics(alone), strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                assert ours[key] == (
                    value if isinstance(value, str) else pytest.approx(value, 1e-4)
                )
