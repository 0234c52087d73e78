"""Hosts that do not come together: each is told why, in two seconds here, before JAX is asked."""

import http.server
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest

from bigmodel import joining, watch
from bigmodel.commands.main import main
from bigmodel.errors import UserError


def given(address: str, host: int) -> dict[str, Any]:
    return joining.arguments(address, 2, host) or {}


def test_a_first_host_whose_port_is_taken_is_told() -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f'cannot listen on port {port}.*another run may use'):
            joining.initialize(given(f'127.0.0.1:{port}', 0))


def test_a_first_host_that_is_not_there_is_waited_for_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(joining, 'START_SECONDS', 1)
    monkeypatch.setattr(joining, 'SAY_AFTER', 0.1)
    with socket.create_server(('127.0.0.1', 0)) as free:
        where = f'127.0.0.1:{free.getsockname()[1]}'
    with pytest.raises(UserError, match=f'reached at --coordinator={where} for 1 s .*refused'):
        joining.initialize(given(where, 1))
    assert f'waiting for the first host at {where}' in capsys.readouterr().err


def test_a_coordinator_without_an_address_is_said_at_once() -> None:
    with pytest.raises(UserError, match=r"this host knows no 'nowhere\.invalid'"):
        joining.initialize(given('nowhere.invalid:8476', 1))


class Store:
    """JAX's key-value store, of one process."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def key_value_set(self, key: str, value: str) -> None:
        self.values[key] = value

    def blocking_key_value_get(self, key: str, limit: int) -> str:
        return self.values[key]


def test_another_number_of_hosts_is_told_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining.time, 'sleep', lambda _: None)
    told = {f'{joining.COUNTS}/{i}': n for i, n in enumerate(('3', '3', '4'))}
    for host in range(3):
        with pytest.raises(UserError, match='--num_hosts=3 on host 0, 4 on host 2; all hosts'):
            joining._check_counts(Store(**told), host, int(told[f'{joining.COUNTS}/{host}']))
    joining._check_counts(Store(**{f'{joining.COUNTS}/1': '2'}), 0, 2)


@pytest.mark.parametrize(
    ('vendor', 'metadata', 'expected'),
    [
        ('0x1ae0', {'worker-network-endpoints': 'a:1:10.0.0.1,b:2:10.0.0.2'}, {}),
        ('0x1ae0', {'worker-network-endpoints': 'a:1:10.0.0.1'}, None),
        ('0x1ae0', {'tpu-env': "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1'"}, {}),
        ('0x1ae0', {}, None),  # Google's network card, say
        ('0x8086', {'worker-network-endpoints': 'a:1:10.0.0.1,b:2:10.0.0.2'}, None),
    ],
)
def test_a_worker_of_a_pod_is_known_by_its_metadata(
    vendor: str,
    metadata: dict[str, str],
    expected: dict | None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where its chips are not at /dev/accel0, as from v5p on."""
    for name in ('SLURM_NTASKS', 'TPU_WORKER_HOSTNAMES', 'TPU_SKIP_MDS_QUERY'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'vendor').write_text(f'{vendor}\n')
    monkeypatch.setattr(joining, 'PCI', str(tmp_path / 'v*'))
    server = http.server.HTTPServer(('127.0.0.1', 0), partial(Metadata, metadata))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server_port}')
    try:
        assert joining.arguments('', 0, -1) == expected
    finally:
        server.shutdown()
        server.server_close()


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as a machine of Google's cloud does."""

    def __init__(self, values: dict[str, str], *rest: Any) -> None:
        self.values = values
        super().__init__(*rest)

    def do_GET(self) -> None:
        value = self.values.get(self.path.rpartition('/')[2])
        asked_well = self.headers['Metadata-Flavor'] == 'Google'
        self.send_response(200 if value and asked_well else 404)
        self.end_headers()
        self.wfile.write((value or '').encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_command_that_does_not_join_refuses_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
    assert main(['evaluate', '--workdir=runs/any']) == 2
    assert 'each would do all of evaluate; start it once' in capsys.readouterr().err


@pytest.mark.parametrize(('last', 'said'), [("'second'", 'second\n'), ("''", '')])
def test_the_last_words_of_a_process_are_the_newest(last: str, said: str) -> None:
    code = f'import os, bigmodel.watch as w; x = w.LastWords("first"); x.change({last}); os.abort()'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT and done.stderr == said


def test_a_process_outlives_its_speaker() -> None:
    words = watch.LastWords('nothing is said')
    os.kill(words._speaker.pid, signal.SIGKILL)
    words._speaker.wait()
    words.change('more')
    words.goodbye()
