"""Nobody computes on alone: when a host of a run dies, the others stop, and each says why.

Every host counts on in JAX's key-value store, which the first host keeps, and reads what the others
do. That finds a host that died or failed (this module), and by the store's own end a first host
that died: then JAX aborts the process at once, and only a process beside it can still speak.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SILENCE = 20.0  # seconds without a sign of life after which a host counts as dead
EVERY = 1.0
PATIENCE = 15.0  # seconds that the first host outlives the others, at most
LOST = 75  # exit code of a host that has lost another: EX_TEMPFAIL of sysexits.h, try again
ALIVE, ENDED, GONE = 'bigmodel/alive', 'bigmodel/ended', 'bigmodel/gone'
# Speaks when its standard input ends: the process that held it has died. Of what it was told, each
# with a zero byte behind it, it says the last.
_SPEAKER = """
import signal, sys
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
told = sys.stdin.buffer.read().split(b'\\0')[:-1]
if told and told[-1]: print(told[-1].decode(), file=sys.stderr, flush=True)
"""
AGAIN = 'start all hosts again with the same command: the run goes on from its last checkpoint'


class LastWords:
    """Says on standard error that this process was killed or aborted, unless it says goodbye."""

    def __init__(self, text: str) -> None:
        command = [sys.executable, '-I', '-S', '-c', _SPEAKER]
        self._speaker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.change(text)

    def change(self, text: str) -> None:
        """What is said from now on; '' for nothing."""
        with contextlib.suppress(OSError, ValueError):  # it was killed; or all has been said
            self._speaker.stdin.write(text.encode() + b'\0')
            self._speaker.stdin.flush()

    def goodbye(self) -> None:
        """This process ends in a way that needs no explanation."""
        if not self._speaker.stdin.closed:
            self.change('')
            with contextlib.suppress(OSError):
                self._speaker.stdin.close()
            self._speaker.wait()


class Watch:
    """A thread that looks after the other hosts, and ends this process when one of them is lost."""

    def __init__(self, client: Any, index: int, names: list[str], words: LastWords) -> None:
        self._client, self._index, self._names, self._words = client, index, names, words
        self._closed, self._ending = threading.Event(), threading.Event()
        self._seen: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._work, name='hosts', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks no longer: the run has ended here."""
        self._closed.set()
        self._thread.join()

    def fail(self, reason: str) -> None:
        """Tells the others that this host has failed; returns when this host may end."""
        self.close()
        self._quietly(lambda: self._client.key_value_set(f'{ENDED}/{self._index}', reason))
        self._go()

    def lost(self) -> None:
        """Waits as long as it may take to find that another host was lost, which ends this one."""
        if self._ending.wait(SILENCE + 5 * EVERY):
            self._thread.join()

    def _work(self) -> None:
        count = 0
        while not self._closed.wait(EVERY):
            count += 1
            found = self._quietly(lambda: self._look(str(count)))  # noqa: B023
            if found and not self._closed.is_set():
                self._end(*found)

    def _look(self, count: str) -> tuple[str, int] | None:
        """Gives a sign of life; why this host cannot go on, and its exit code."""
        self._client.key_value_set(f'{ALIVE}/{self._index}', count, allow_overwrite=True)
        for host, why in self._told(ENDED).items():
            return f'{self._name(host)} has stopped: {why}', 1
        for host in self._silent():
            return (
                f'{self._name(host)} has given no sign of life for {SILENCE:.0f} s: it was '
                f'killed, or its machine or network is gone'
            ), LOST
        return None

    def _told(self, about: str) -> dict[int, str]:
        """What each host has told the others."""
        found = self._client.key_value_dir_get(about)
        return {int(key.rpartition('/')[2]): value for key, value in found}

    def _silent(self) -> list[int]:
        now, signs = time.monotonic(), self._told(ALIVE)
        for host in self._others():
            sign = signs.get(host, '')
            if self._seen.get(host, ('none', 0.0))[0] != sign:
                self._seen[host] = sign, now
        return [h for h in self._others() if now - self._seen[h][1] > SILENCE]

    def _others(self) -> list[int]:
        return [host for host in range(len(self._names)) if host != self._index]

    def _name(self, host: int) -> str:
        return f'host {host} of {len(self._names)} ({self._names[host]})'

    def _end(self, reason: str, code: int) -> None:
        self._ending.set()
        # Perhaps this host fails by itself, of the same mistake: that message is the better one.
        if self._closed.wait(2 * EVERY):
            return
        print(f'error: {reason}. This host stops too; {AGAIN}', file=sys.stderr, flush=True)
        self._words.goodbye()
        self._go()
        os._exit(code)

    def _go(self) -> None:
        """Says that this host has said all. The first one waits for the others to say so: it keeps
        JAX's store, without which JAX aborts them, whatever they have to say.
        """
        self._quietly(lambda: self._client.key_value_set(f'{GONE}/{self._index}', '1'))
        if self._index:
            return
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not self._quietly(self._all_gone):
            time.sleep(EVERY / 4)
        time.sleep(EVERY)  # from their last word to their end

    def _all_gone(self) -> bool:
        return self._told(GONE).keys() | set(self._silent()) >= set(self._others())

    def _quietly(self, act: Callable[[], Any]) -> Any:
        """What `act` returns; None when the store does not answer, which JAX itself deals with."""
        try:
            return act()
        except Exception:
            return None
