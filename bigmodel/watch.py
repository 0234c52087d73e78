"""Nobody computes on alone: when a host of a run dies, the others stop, and each says why.

Every host counts on in JAX's key-value store, which the first host keeps, and reads what the others
do. That finds a host that died or failed (this module), and by the store's own end a first host
that died: then JAX aborts the process at once, and only a process beside it can still speak.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SILENCE = 20.0  # seconds without a sign of life after which a host counts as dead
EVERY = 1.0
ALIVE, ENDED = 'bigmodel/alive', 'bigmodel/ended'
# Speaks when its standard input ends without a farewell: the process that held it has died.
_SPEAKER = """
import signal, sys
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
if sys.stdin.buffer.read() != b'bye': print(sys.argv[1], file=sys.stderr, flush=True)
"""
AGAIN = 'start all hosts again with the same command: the run goes on from its last checkpoint'


class LastWords:
    """Says on standard error that this process was killed or aborted, unless it says goodbye."""

    def __init__(self, text: str) -> None:
        command = [sys.executable, '-I', '-S', '-c', _SPEAKER, text]
        self._speaker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def goodbye(self) -> None:
        """This process ends in a way that needs no explanation."""
        if self._speaker.stdin is not None and not self._speaker.stdin.closed:
            self._speaker.stdin.write(b'bye')
            self._speaker.stdin.close()
            self._speaker.wait()


class Watch:
    """A thread that looks after the other hosts, and ends this process when one of them is lost."""

    def __init__(self, client: Any, index: int, names: list[str], words: LastWords) -> None:
        self._client, self._index, self._names, self._words = client, index, names, words
        self._closed = threading.Event()
        self._seen: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._work, name='hosts', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks no longer: the run has ended here."""
        self._closed.set()
        self._thread.join()

    def fail(self, reason: str) -> None:
        """Tells the others that this host has failed; returns when they have had time to hear."""
        self.close()
        self._quietly(lambda: self._client.key_value_set(f'{ENDED}/{self._index}', reason))
        time.sleep(3 * EVERY)

    def lost(self) -> None:
        """Waits as long as it may take to find that another host was lost, which ends this one."""
        self._thread.join(SILENCE + 25)

    def _work(self) -> None:
        count = 0
        while not self._closed.wait(EVERY):
            count += 1
            reason = self._quietly(lambda: self._look(str(count))) or ''  # noqa: B023
            if reason and not self._closed.is_set():
                self._end(reason)

    def _look(self, count: str) -> str:
        """Gives a sign of life; why this host cannot go on, or ''."""
        self._client.key_value_set(f'{ALIVE}/{self._index}', count, allow_overwrite=True)
        for key, why in self._client.key_value_dir_get(ENDED):
            return f'{self._name(int(key.rpartition("/")[2]))} has stopped: {why}'
        now = time.monotonic()
        signs = {int(k.rpartition('/')[2]): v for k, v in self._client.key_value_dir_get(ALIVE)}
        for host in range(len(self._names)):
            sign = signs.get(host, '')
            if self._seen.get(host, ('none', 0.0))[0] != sign:
                self._seen[host] = sign, now
            elif now - self._seen[host][1] > SILENCE and host != self._index:
                return (
                    f'{self._name(host)} has given no sign of life for {SILENCE:.0f} s: it was '
                    f'killed, or its machine or network is gone'
                )
        return ''

    def _name(self, host: int) -> str:
        return f'host {host} of {len(self._names)} ({self._names[host]})'

    def _end(self, reason: str) -> None:
        # Perhaps this host fails by itself, of the same mistake: that message is the better one.
        # The first host waits longer: without it JAX aborts the others, whatever they have to say.
        if self._closed.wait(2 * EVERY * (1 if self._index else 3)):
            return
        print(f'error: {reason}. This host stops too; {AGAIN}', file=sys.stderr, flush=True)
        self._words.goodbye()
        os._exit(1)

    def _quietly(self, act: Callable[[], Any]) -> Any:
        """What `act` returns; None when the store does not answer, which JAX itself deals with."""
        try:
            return act()
        except Exception:
            return None
