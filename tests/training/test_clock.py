"""Every second of a run is of one kind, and what is made again after a kill is known to be lost."""

import json
import pathlib
import queue
from typing import Any

import pytest

from bigmodel.training import clock as clock_lib
from bigmodel.training.clock import Clock
from bigmodel.training.goodput import KINDS, goodput, in_words
from bigmodel.training.ledger import Ledger


class Now:
    """A time that is set by hand: seconds since 1970, and of a monotonic clock that began at 0."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        return 1e9 + self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Output:
    """What a step returns, which is there from a time on."""

    def __init__(self, now: Now, seconds: float) -> None:
        self._now, self._seconds = now, seconds

    def is_ready(self) -> bool:
        return self._now.seconds >= self._seconds


class Late(queue.Queue):
    """A queue whose next item comes at a time."""

    def __init__(self, now: Now, seconds: float) -> None:
        super().__init__()
        self._now, self._seconds = now, seconds

    def get(self, block: bool = True, timeout: float = 1e9) -> str:
        until = self._now.seconds + timeout
        self._now.seconds = min(max(self._seconds, self._now.seconds), until)
        if self._now.seconds < self._seconds:
            raise queue.Empty
        return 'batch'


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(clock_lib, 'time', now)
    return now


def spent(clock: Clock) -> dict[str, float]:
    return {kind: seconds for kind, seconds in clock.totals.items() if seconds}


def test_what_the_host_does_while_the_devices_compute_is_compute(now) -> None:
    clock = Clock(began=1e9 - 3)
    now.seconds = 1
    clock.count('start')
    now.seconds = 2
    clock.count('input')
    clock.computing([Output(now, 8)])
    now.seconds = 5
    clock.count('host')
    now.seconds = 7
    clock.count('input')
    now.seconds = 9
    clock.count('host')  # they ended within it
    now.seconds = 10
    clock.count('evaluation')
    want = {'start': 4.0, 'input': 1.0, 'compute': 5.0, 'host': 2.0, 'evaluation': 1.0}
    assert spent(clock) == pytest.approx(want)
    assert sum(clock.totals.values()) == pytest.approx(now.seconds + 3)


@pytest.mark.parametrize(
    ('done', 'there', 'want'),
    [
        (5, 0, {}),
        (5, 3, {'compute': 3}),
        (5, 9, {'compute': 5, 'input': 4}),
        (0, 9, {'input': 9}),
    ],
)
def test_waiting_for_a_batch_counts_from_when_the_devices_have_nothing_to_do(
    done, there, want, now
) -> None:
    clock = Clock()
    clock.computing([Output(now, done)])
    assert clock.take(Late(now, there)) == 'batch'
    assert spent(clock) == pytest.approx(want, abs=2 * clock_lib.POLL)
    assert sum(clock.totals.values()) == pytest.approx(there)


def test_compilation_counts_apart_and_never_more_than_the_time_there_is(now, monkeypatch) -> None:
    class Compiled:
        seconds = 7.0

    monkeypatch.setattr(clock_lib, 'compilation', Compiled)
    clock = Clock()
    now.seconds, Compiled.seconds = 2, 10.0  # of a thread that began before
    clock.count('start')
    now.seconds = 6
    clock.count('evaluation')
    assert spent(clock) == pytest.approx({'compile': 3.0, 'evaluation': 3.0})


def written(path: pathlib.Path, *lines: dict[str, Any]) -> pathlib.Path:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def test_steps_before_a_checkpoint_that_is_resumed_from_count_and_later_ones_are_lost(tmp_path):
    path = written(
        tmp_path / 'times.jsonl',
        {'step': 0, 'began': 100.0},
        {'step': 0, 'start': 2.0, 'compile': 8.0},
        {'step': 10, 'compute': 10.0, 'input': 1.0},
        {'step': 14, 'compute': 4.0, 'checkpoint': 1.0},  # saved
        {'step': 20, 'compute': 6.0, 'host': 0.5, 'compile': 0.25},
        {'step': 14, 'began': 150.0},  # killed after 132.75
        {'step': 14, 'start': 1.0},
        {'step': 17, 'compute': 3.0},
        {'step': 14, 'began': 160.0},  # killed again, after 154
        {'step': 30, 'compute': 16.0, 'evaluation': 2.0},
    )
    found = goodput(path)
    assert found['restarts'] == 2 and found['lost_steps'] == 6 + 3 and found['since_step'] == 0
    assert found['productive_seconds'] == 10 + 4 + 16 and found['lost'] == 6 + 0.5 + 3
    assert found['down'] == (150 - 132.75) + (160 - 154) and found['wall_seconds'] == 78
    assert found['fraction'] == pytest.approx(30 / 78, abs=1e-4)
    assert_adds_up(found)
    words = in_words(found)
    assert words.startswith('78 s: 38 % compute, 30 % down, 12 % steps made again, 11 % compil')
    assert words.endswith('2 restarts, 9 steps made again')


def assert_adds_up(found: dict[str, Any]) -> None:
    """Each is rounded to a millisecond."""
    names = ['productive_seconds', 'lost', 'down', *(k for k in KINDS if k != 'compute')]
    assert sum(found[name] for name in names) == pytest.approx(found['wall_seconds'], abs=0.006)


def test_a_line_cut_off_by_a_kill_is_dropped_and_all_others_stay(now, tmp_path) -> None:
    """Nor do lines that something else damaged take others with them."""
    path = tmp_path / 'times.jsonl'
    path.write_bytes(b'{"step": 7, "compute": 3}\n\xff\xfe\n[]\n')
    ledger = Ledger(path, Clock(), 0)
    now.seconds = 1.5
    ledger.write(3)
    with path.open('a') as file:
        file.write('{"step": 4, "comp')
    now.seconds = 10
    clock = Clock()
    ledger = Ledger(path, clock, 2)
    now.seconds = 12
    clock.computing([Output(now, 0)])
    ledger.write(4)
    ledger.close()
    found = goodput(path)
    assert found['down'] == 8.5 and found['lost'] == 1.5 and found['productive_seconds'] == 2
    assert found['wall_seconds'] == 12 and found['lost_steps'] == 1
    assert b'comp\n{' in path.read_bytes()  # appended to
