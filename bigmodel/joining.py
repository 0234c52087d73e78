"""How the hosts of a run find each other, and what is said where they do not.

JAX aborts the process, with an address in C++ at most, when hosts do not come together; so what can
be known before is looked at here first.
"""

import contextlib
import errno
import glob
import os
import pathlib
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from bigmodel.errors import UserError

START_SECONDS = 300  # in which all hosts must have started
SAY_AFTER = 15.0  # seconds
PCI, GOOGLE = '/sys/bus/pci/devices/*/vendor', '0x1ae0'
COUNTS = 'bigmodel/hosts'
ALIKE = 'all hosts need the same --coordinator and --num_hosts, and each a --host of its own'


def arguments(coordinator: str, num_hosts: int, host: int) -> dict[str, Any] | None:
    """Of jax.distributed.initialize; None where there is one host."""
    if coordinator:
        port = coordinator.rpartition(':')[2]
        if not port.isdecimal() or num_hosts < 1 or not 0 <= host < num_hosts:
            raise UserError(
                f'--coordinator={coordinator} --num_hosts={num_hosts} --host={host}: give all '
                f'three, as in --coordinator=10.0.0.1:8476 --num_hosts=2 --host=0 (0 runs on '
                f'10.0.0.1, the other has --host=1)'
            )
        given = {'coordinator_address': coordinator, 'num_processes': num_hosts}
        return given | {'process_id': host, 'cluster_detection_method': 'deactivate'}
    if num_hosts or host >= 0:
        raise UserError('--num_hosts and --host need --coordinator=ADDRESS:PORT of the first host')
    environ = os.environ
    slurm = {'SLURM_STEP_NODELIST', 'SLURM_PROCID'} <= environ.keys()
    tasks = int(environ.get('SLURM_NTASKS', '1')) if slurm else 1
    ranks = int(environ.get('OMPI_COMM_WORLD_SIZE', '1'))
    if tasks > 1 or ranks > 1:
        # JAX gives each process the GPU of its number on the machine; one alone has them all.
        alone = environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1' or set(
            part.partition('(')[0] for part in environ.get('SLURM_TASKS_PER_NODE', '').split(',')
        ) == {'1'}
        method = 'slurm' if tasks > 1 else 'ompi'
        return {'cluster_detection_method': method} | ({'local_device_ids': []} if alone else {})
    # Without a pod libtpu puts a warning, in words, there, which processes inherit.
    lists = (environ.get(n, '') for n in ('TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES'))
    if (
        any(',' in hosts and ' ' not in hosts for hosts in lists)
        or 'MEGASCALE_COORDINATOR_ADDRESS' in environ
        or _is_pod()
    ):
        return {}
    return None


def check_alone(command: str) -> None:
    """Raises UserError where SLURM or Open MPI have started several hosts of another command."""
    if 'cluster_detection_method' in (arguments('', 0, -1) or {}):
        raise UserError(
            f'only train joins hosts, and several were started: each would do all of {command}; '
            f'start it once (srun --ntasks=1, mpirun -n 1)'
        )


def not_together(given: dict[str, Any]) -> str:
    """What is said when JAX ends this process before all hosts have come together."""
    what = 'not all hosts of this run have come together'
    if 'coordinator_address' in given:
        what += f' (host {given["process_id"]} of {given["num_processes"]} is this one)'
    return (
        f'error: {what}: they must all start within {START_SECONDS} s, and reach the first one; '
        f'{ALIKE}. The lines above, or the log of the first host, say more'
    )


def initialize(given: dict[str, Any]) -> tuple[Any, int, int]:
    """(client, number of this host, how many there are).

    Raises UserError where hosts do not come together, as far as JAX can be asked.
    """
    import jax
    from jax._src import distributed

    _check_coordinator(given)
    try:
        with _saying(f'waiting for all hosts of this run, up to {START_SECONDS} s'):
            jax.distributed.initialize(
                **given,
                initialization_timeout=START_SECONDS,
                # Only for what the Watch does not see: it is slower, and its message is JAX's.
                heartbeat_timeout_seconds=55,
            )
    except (ValueError, RuntimeError) as e:
        raise UserError(
            f'the hosts cannot be joined ({str(e).splitlines()[0]}); start all of them within '
            f'{START_SECONDS} s, or name them: --coordinator=ADDRESS:PORT --num_hosts=N --host=I'
        ) from e
    state = distributed.global_state
    _check_counts(state.client, state.process_id, state.num_processes)
    return state.client, state.process_id, state.num_processes


def _is_pod() -> bool:
    """Whether this is a worker of a TPU pod, or of several slices, by its machine's metadata."""
    if not any(pathlib.Path(vendor).read_text().strip() == GOOGLE for vendor in glob.glob(PCI)):
        return False  # no TPU, which may lie at /dev/accel0 or at /dev/vfio/0; nobody to ask
    several = 'MEGASCALE_COORDINATOR_ADDRESS' in _metadata('tpu-env')
    return several or ',' in _metadata('worker-network-endpoints')


def _metadata(key: str) -> str:
    """What a machine of Google's cloud knows of itself, as JAX asks for it; '' elsewhere."""
    where = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    url = f'http://{where}/computeMetadata/v1/instance/attributes/{key}'
    asked = urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})
    if 'TPU_SKIP_MDS_QUERY' in os.environ:
        return ''
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(asked, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ''


def _check_coordinator(given: dict[str, Any]) -> None:
    """Raises UserError where the first host's port is taken, or not to be reached from here."""
    if 'coordinator_address' not in given:
        return
    address, _, port = given['coordinator_address'].rpartition(':')
    if given['process_id'] == 0:
        _check_free(int(port))
    else:
        _reach(address.strip('[]'), int(port))


def _check_free(port: int) -> None:
    """JAX would crash."""
    try:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as there:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after an earlier run
            there.bind(('', port))
    except OSError as e:
        if e.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(
                f'the first host cannot listen on port {port} of --coordinator ({e.strerror}): '
                f'another run may use it; give all hosts another port'
            ) from e


def _reach(address: str, port: int) -> None:
    until = time.monotonic() + START_SECONDS
    with _saying(f'waiting for the first host at {address}:{port}, up to {START_SECONDS} s'):
        while True:
            try:
                socket.create_connection((address, port), timeout=10).close()
                return
            except socket.gaierror as e:
                raise UserError(
                    f'--coordinator: this host knows no {address!r} ({e.strerror}); give an '
                    f'address of the first host that the others can reach'
                ) from e
            except OSError as e:
                if time.monotonic() > until:
                    raise UserError(
                        f'the first host cannot be reached at --coordinator={address}:{port} for '
                        f'{START_SECONDS} s ({e.strerror or e}): start it with --host=0, and see '
                        f'that this is its address and that no firewall is between'
                    ) from e
            time.sleep(1)


def _check_counts(client: Any, index: int, there: int) -> None:
    """Raises UserError on all hosts when one has been told another number of them."""
    client.key_value_set(f'{COUNTS}/{index}', str(there))
    limit = START_SECONDS * 1000
    first = client.blocking_key_value_get(f'{COUNTS}/0', limit)
    for host in range(int(first)):
        other = client.blocking_key_value_get(f'{COUNTS}/{host}', limit)
        if other != first:
            time.sleep(2)  # the first host keeps what the others are still to read
            raise UserError(f'--num_hosts={first} on host 0, {other} on host {host}; {ALIKE}')


@contextlib.contextmanager
def _saying(text: str) -> Iterator[None]:
    """Says so when what is done in this context takes long."""
    timer = threading.Timer(SAY_AFTER, print, (text,), {'file': sys.stderr, 'flush': True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
