"""The directory of a sweep, a contract as a run's is: what happened is read here alone.

sweep.json            the plan
ARM/seedN/            a run directory for each arm and seed
jobs/ARM.seedN.lock   held by the worker that trains it
jobs/ARM.seedN.json   why a run failed
jobs/ARM.seedN.begun  a line for each process that began it and did not end it
jobs/search.lock      held by the worker that adds an arm to the plan
logs/worker-I.log     what a worker said
studies.journal       what the runs told of themselves, where losing ones are pruned
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bigmodel.data.atomic import write_json
from bigmodel.data.locks import claimed, is_held
from bigmodel.errors import UserError
from bigmodel.sweeps.plan import Job, Plan, from_json
from bigmodel.training.writers import read_jsonl

# What a run can be; 'stopped' was begun and nobody goes on with it now.
STATES = ('done', 'pruned', 'running', 'stopped', 'waiting', 'failed')
ENDED = ('done', 'pruned', 'failed')
OPEN = ('waiting', 'stopped')  # that somebody has yet to do
PRUNED = 'pruned'  # how the reason begins for which a run ended early


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run of a sweep as its directory shows it."""

    job: Job
    path: pathlib.Path
    state: str  # of STATES
    error: str = ''

    @property
    def reason(self) -> str:
        """The first line of its error, which has many where it ran out of memory."""
        return self.error.partition('\n')[0]

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        return list(read_jsonl(self.path / 'metrics.jsonl'))

    @property
    def result(self) -> dict[str, Any]:
        """result.json; empty before the end."""
        return _json(self.path / 'result.json')

    @property
    def run(self) -> dict[str, Any]:
        """run.json; empty before the start."""
        return _json(self.path / 'run.json')

    @property
    def config(self) -> dict[str, Any]:
        """config.json; empty before the start."""
        return _json(self.path / 'config.json')


class SweepDir:
    """The files of one sweep."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.plan = path / 'sweep.json'
        self.logs = path / 'logs'
        self.studies = path / 'studies.journal'
        self._jobs = path / 'jobs'
        self.searching = self._jobs / 'search.lock'

    def run_dir(self, job: Job) -> pathlib.Path:
        """Of one arm and seed."""
        return self.path / job.arm / f'seed{job.seed}'

    def write_plan(self, plan: Plan) -> None:
        """Writes the plan; raises UserError where the directory holds something else."""
        if self.path.exists() and not self.plan.exists() and any(self.path.iterdir()):
            raise UserError(f'--workdir={self.path} is not empty and holds no sweep')
        try:
            self._jobs.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            write_json(self.plan, plan.to_json())
        except OSError as e:
            raise UserError(f'--workdir={self.path} cannot be written: {e.strerror}') from e

    def read_plan(self) -> Plan:
        """The plan; raises UserError where there is none."""
        try:
            return from_json(json.loads(self.plan.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f'{self.path} holds no sweep: there is no {self.plan.name}') from None
        except (json.JSONDecodeError, KeyError, TypeError) as e:
            raise UserError(f'{self.plan} is damaged ({e}); start the sweep again') from e

    @contextlib.contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """Whether this process alone may work on `job`, until the context ends."""
        with claimed(self._of(job, 'lock')) as ours:
            yield ours

    def fail(self, job: Job, error: str, details: str = '') -> None:
        """Records why a run ended without a result."""
        when = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        write_json(self._of(job, 'json'), {'error': error, 'details': details, 'time': when})

    def forgive(self, job: Job) -> None:
        """Lets a failed run be tried again."""
        self._of(job, 'json').unlink(missing_ok=True)
        self.end(job)

    def begin(self, job: Job) -> None:
        """Notes that this process works on `job`: should it die, the note stays."""
        with open(self._of(job, 'begun'), 'a') as file:
            file.write(f'{os.getpid()}\n')

    def end(self, job: Job) -> None:
        """Takes the notes of `begin` back."""
        self._of(job, 'begun').unlink(missing_ok=True)

    def deaths(self, job: Job) -> int:
        """How many processes died while they worked on `job`; asked before `begin`."""
        path = self._of(job, 'begun')
        return len(path.read_text().splitlines()) if path.exists() else 0

    def state(self, job: Job) -> RunState:
        """What has become of a run."""
        path, failed = self.run_dir(job), _json(self._of(job, 'json'))
        if (path / 'result.json').exists():
            return RunState(job, path, end_of(path))
        if is_held(self._of(job, 'lock')):
            return RunState(job, path, 'running')
        if failed:
            return RunState(job, path, 'failed', failed['error'])
        return RunState(job, path, 'stopped' if (path / 'metrics.jsonl').exists() else 'waiting')

    def states(self, plan: Plan) -> list[RunState]:
        """What has become of every run of the plan, in its order."""
        return [self.state(job) for job in plan.jobs]

    def _of(self, job: Job, ending: str) -> pathlib.Path:
        return self._jobs / f'{job.arm}.seed{job.seed}.{ending}'


def end_of(run: pathlib.Path) -> str:
    """How a run that has a result ended: 'done' or 'pruned'."""
    early = str(_json(run / 'result.json').get('stopped_early', ''))
    return 'pruned' if early.startswith(PRUNED) else 'done'


def metric_of(records: list[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, value) of 'EVALUATION/METRIC' in the records of a metrics.jsonl, in order."""
    evaluation, _, name = metric.partition('/')
    return [(r['step'], r[name]) for r in records if r['split'] == evaluation and name in r]


def _json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file; empty where there is none, or a half one."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, json.JSONDecodeError):
        return {}
