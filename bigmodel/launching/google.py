"""The launchers `tpu_vm` (queued resources, by gcloud) and `gke` (workloads, by XPK)."""

import os
import tempfile
import time
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.command import (
    ROOT,
    Command,
    archive,
    check_committed,
    commit,
    read,
    require,
    start,
    unpack,
)

TPU_VM = {
    'name': None,
    'zone': None,
    'type': None,  # v5litepod-256
    'version': None,  # v2-alpha-tpuv5-lite
    'project': '',
    'spot': '',
    'before': '',  # a shell line, on every worker: mount what --workdir is on
    'retries': '10',  # of a resource that was preempted
    'keep': '',  # 1: no tear-down
}
GKE = {
    'name': None,
    'cluster': None,
    'zone': None,
    'type': None,
    'project': '',
    'slices': '1',
    'image': 'python:3.11',
    'before': '',
    'retries': '10',
}
POLL = 20.0  # seconds


class TpuVm:
    """One TPU slice, which exists as long as the run."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train = read(text, '--pod', TPU_VM), train
        of = (f'--zone={self._o["zone"]}',)
        self._of = of + ((f'--project={self._o["project"]}',) if self._o['project'] else ())
        self._bundle = os.path.join(tempfile.gettempdir(), 'bigmodel.tar.gz')

    def commands(self) -> list[Command]:
        """What is run, in order, when nothing is preempted."""
        o, all_of = self._o, (*self._of, '--worker=all')
        queue, vm = ('gcloud', 'compute', 'tpus', 'queued-resources'), ('gcloud', 'compute', 'tpus')
        name, ssh = o['name'], (*vm, 'tpu-vm', 'ssh', o['name'], *all_of)
        kind = (f'--accelerator-type={o["type"]}', f'--runtime-version={o["version"]}')
        spot = ('--spot',) if o['spot'] else ()
        line = start('bigmodel', '.venv/bin/python', self._train, o['before'])
        show = (*queue, 'describe', name, *self._of, '--format=value(state.state)')
        drop = (*queue, 'delete', name, *self._of, '--force', '--quiet')
        return [
            Command(
                'queue the slice',
                (*queue, 'create', name, f'--node-id={name}', *self._of, *kind, *spot),
            ),
            Command('until it is ACTIVE, again and again', show),
            archive(commit(), self._bundle),
            Command('send the code', (*vm, 'tpu-vm', 'scp', self._bundle, f'{name}:', *all_of)),
            Command('install', (*ssh, '--command', unpack('bigmodel', "'jax[tpu]'"))),
            Command('start on every worker; the first one speaks', (*ssh, '--command', line)),
            Command('tear down', drop),
        ]

    def run(self) -> int:
        """Trains to the end, also after preemptions, and tears down; returns an exit code."""
        require('gcloud', 'git')
        check_committed()
        create, show, pack, send, install, begin, drop = self.commands()
        pack.must()
        for _ in range(int(self._o['retries']) + 1):
            create.must()
            try:
                code = self._wait(show) or send.run() or install.run() or begin.run()
                gone = code and show.answer() != 'ACTIVE'
            finally:
                if not self._o['keep']:
                    drop.run()
            if not gone:
                return code
            print('the slice was preempted; queued again', flush=True)
        raise UserError(f'the slice was preempted {self._o["retries"]} times; see --pod retries=')

    def _wait(self, show: Command) -> int:
        """0 when the slice is there, 1 when it was preempted before."""
        while (state := show.answer()) != 'ACTIVE':
            if state == 'FAILED':
                raise UserError('the slice cannot be made; `gcloud … describe` above says why')
            if state in ('SUSPENDED', 'SUSPENDING'):
                return 1
            print(f'the slice is {state or "unknown"}', flush=True)
            time.sleep(POLL)
        return 0


class Gke:
    """A workload of a cluster that XPK has made, which starts preempted slices again."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train = read(text, '--pod', GKE), train

    def commands(self) -> list[Command]:
        """What is run, in order."""
        o = self._o
        of = (f'--cluster={o["cluster"]}', f'--zone={o["zone"]}')
        of += (f'--project={o["project"]}',) if o['project'] else ()
        code = commit()
        folder = os.path.join(tempfile.gettempdir(), f'bigmodel-{code[:12]}')
        unpacked = f'mkdir -p {folder} && git -C {ROOT} archive {code} | tar x -C {folder}'
        install = "pip install -q -r requirements.txt 'jax[tpu]'"
        before = ' && '.join(filter(None, (install, o['before'])))
        create = (
            *('xpk', 'workload', 'create', *of, f'--workload={o["name"]}'),
            *(f'--tpu-type={o["type"]}', f'--num-slices={o["slices"]}'),
            *(f'--base-docker-image={o["image"]}', f'--max-restarts={o["retries"]}'),
            *(f'--script-dir={folder}', '--command', start('.', 'python', self._train, before)),
        )
        log = ('kubectl', 'logs', '--follow', '--pod-running-timeout=24h')
        log += (f'job/{o["name"]}-slice-job-0',)
        delete = ('xpk', 'workload', 'delete', *of, f'--workload={o["name"]}', '--force')
        return [
            Command('the code of this commit', ('sh', '-c', unpacked)),
            Command('queue, with this code, on every worker', create),
            Command('the log of the first worker', log),
            Command('tear down', delete),
        ]

    def run(self) -> int:
        """Queues the workload, follows its log to the end and removes it."""
        require('xpk', 'kubectl')
        check_committed()
        unpacked, create, log, delete = self.commands()
        unpacked.must()
        create.must()
        code = log.run()
        delete.must()
        return code
