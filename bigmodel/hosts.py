"""The hosts (processes) of one run: how they find each other, agree, and end together.

What comes from files, clocks or signals may differ between hosts, so it is decided by the first one
(`from_first`) or by all (`gather`) through JAX's key-value store, which needs no device. All hosts
make these calls in the same order. Everything is a plain call where there is one host alone.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

from bigmodel import joining
from bigmodel.errors import UserError
from bigmodel.watch import AGAIN, LastWords, Watch

T = TypeVar('T')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
LONG = 7 * 24 * 3600 * 1000  # milliseconds: a host that waits is ended by its Watch
_calls = itertools.count()
_watch: Watch | None = None
# The number of this host, and how many there are. Not JAX's process_index and process_count: they
# start the devices, which are configured later.
_place = (0, 1)
_failed = False


def count() -> int:
    """How many hosts the run has."""
    return _place[1]


def is_first() -> bool:
    """Whether this host writes files and speaks."""
    return not _place[0]


@contextlib.contextmanager
def joined(coordinator: str, num_hosts: int, host: int) -> Iterator[None]:
    """Within this context the hosts of a run are one.

    `coordinator` is 'ADDRESS:PORT' of the first host with `num_hosts` and this one's number `host`;
    with '' SLURM, a TPU pod or Open MPI say so, and without these there is one host. Raises
    UserError where they cannot be joined. To be entered before JAX touches a device.
    """
    global _watch, _place, _failed
    given = joining.arguments(coordinator, num_hosts, host)
    if given is None:
        yield
        return
    words = LastWords(joining.not_together(given))
    try:
        client, index, there = _initialized(given)
        if there == 1:
            words.goodbye()
            yield
            return
        words.change(
            f'error: this host ({socket.gethostname()}, process {os.getpid()}) was killed or '
            'aborted. When the lines above do not say why, the first host of the run, which keeps '
            f'the others together, has died: its log has the reason. All hosts stop; {AGAIN}'
        )
        if index:  # one host speaks
            sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
        _watch = Watch(client, index, _gathered(client, socket.gethostname(), index, there), words)
        _place = index, there
        try:
            yield
            _gathered(client, '', index, there)  # the store must outlive those who still need it
            _watch.close()
        except BaseException as e:
            _failed = True
            _leave(e)
            raise
        finally:
            _watch, _place = None, (0, 1)
    finally:
        words.goodbye()


def exit_if_failed(code: int, said: str = '') -> None:
    """Ends this process at once where its run failed, with a last word: an orderly exit waits for
    other hosts.
    """
    if _failed:
        print(said, end='', file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first host (as JSON has it: tuples become lists), on all.

    Its UserError is raised on all.
    """
    if count() == 1:
        return make()
    key, client = f'bigmodel/call/{next(_calls)}', _client()
    if is_first():
        try:
            value = make()
        except UserError as e:
            client.key_value_set(key, json.dumps({'error': str(e)}))
            raise
        client.key_value_set(key, json.dumps({'value': value}))
    told = json.loads(client.blocking_key_value_get(key, LONG))
    if 'error' in told:
        raise UserError(told['error'])
    return told['value']


def gather(value: Any) -> list[Any]:
    """The `value` of every host (as JSON has it), in their order."""
    if count() == 1:
        return [value]
    return _gathered(_client(), value, *_place)


def check_alike(facts: Mapping[str, Any]) -> None:
    """Raises UserError, which says what differs, where another host has other `facts`."""
    hosts = gather({'name': socket.gethostname(), 'facts': dict(facts)})
    first = hosts[0]
    found = [
        f'{key}: {first["facts"].get(key)!r} on host 0 ({first["name"]}), '
        f'{other["facts"].get(key)!r} on host {i} ({other["name"]})'
        for i, other in enumerate(hosts)
        for key in {**first['facts'], **other['facts']}
        if first['facts'].get(key) != other['facts'].get(key)
    ]
    if found:
        more = f'; and {len(found) - 8} more' if len(found) > 8 else ''
        raise UserError(
            f'the hosts of this run differ: {"; ".join(found[:8])}{more}. Give all of them the '
            f'same command, code and packages'
        )


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes."""
    return {'python': platform.python_version()} | {n: metadata.version(n) for n in PACKAGES}


def code() -> str:
    """A fingerprint of the package's source, committed or not."""
    root, digest = pathlib.Path(__file__).parent, hashlib.blake2b(digest_size=8)
    for file in sorted(root.rglob('*.py')):
        digest.update(f'{file.relative_to(root)}\n'.encode() + file.read_bytes())
    return digest.hexdigest()


class Stop:
    """A signal on one host stops all of them after the same step.

    When a host has read the metrics of step t, every host has started step t. So the first host,
    which is in step t when it hears of a signal, announces step t + 2: whoever ends that step has
    read the metrics of t + 1, which the first host started after the announcement.
    """

    def __init__(self, caught: list[int]) -> None:
        self._caught, self._run = caught, next(_calls)
        self._told, self._at = False, 0
        self.signum = 0  # of the stop that all have agreed on

    def after(self, step: int) -> bool:
        """Whether the run ends after `step`; to be asked once a step, after its metrics were taken.

        The step of `catch_signals`' signal where there is one host.
        """
        if count() == 1:
            self.signum = self._caught[0] if self._caught else 0
            return bool(self._caught)
        client, asked = _client(), f'bigmodel/stop/{self._run}/asked'
        if self._caught and not self._told:
            self._told = True
            client.key_value_set(asked, str(self._caught[0]), allow_overwrite=True)
        if is_first() and not self._at:
            signum = _try_get(client, asked)
            if signum:
                client.key_value_set(f'{asked}/at', f'{step + 2} {signum}')
        if not self._at:
            at = _try_get(client, f'{asked}/at')
            self._at, self.signum = map(int, at.split()) if at else (0, 0)
        return bool(self._at) and step >= self._at

    def at_end(self) -> int:
        """A signal that any host has had by the end of the run, or 0."""
        return next(filter(None, gather(self._caught[0] if self._caught else 0)), 0)


def _initialized(given: dict[str, Any]) -> tuple[Any, int, int]:
    global _failed
    try:
        return joining.initialize(given)
    except BaseException:
        _failed = True  # an orderly exit would wait for hosts that may never come
        raise


def _leave(error: BaseException) -> None:
    """Tells the other hosts why this one ends; for a lost host, waits until it is known which."""
    assert _watch is not None
    if isinstance(error, Exception) and not isinstance(error, UserError):
        _watch.lost()  # ends this process when there is one: its end was the cause of `error`
    said = str(error).splitlines()[:1]
    _watch.fail(f'{type(error).__name__}: {"".join(said)}')


def _gathered(client: Any, value: Any, index: int, there: int) -> list[Any]:
    key = f'bigmodel/call/{next(_calls)}'
    client.key_value_set(f'{key}/{index}', json.dumps(value))
    return [json.loads(client.blocking_key_value_get(f'{key}/{i}', LONG)) for i in range(there)]


def _try_get(client: Any, key: str) -> str:
    try:
        return client.key_value_try_get(key)
    except Exception as e:
        if 'NOT_FOUND' not in str(e):
            raise
        return ''


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
