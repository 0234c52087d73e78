"""The launcher `gke`: a workload of a cluster that XPK has made, which starts preempted slices
again.
"""

import datetime
import tempfile
import time
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.code import commit, extract, start
from bigmodel.launching.command import Command, interruptible, number, read, require
from bigmodel.watch import LOST

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
UNKNOWN = 15  # times in a row that the cluster may not say the state


class Gke:
    """A workload whose first worker is listened to."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train, self._code = read(text, '--pod', GKE), train, commit()
        for key in ('slices', 'retries'):
            number(self._o, key, '--pod')

    def commands(self) -> list[Command]:
        """What is run, in order."""
        return self._commands(f'{tempfile.gettempdir()}/bigmodel-{self._code[:12]}')

    def run(self) -> int:
        """Queues the workload, follows its log to the end and removes it; returns an exit code."""
        require('xpk', 'kubectl')
        with tempfile.TemporaryDirectory() as folder, interruptible():
            unpacked, create, log, state, delete = self._commands(folder)
            unpacked.must()
            create.must()
            removed = False
            try:
                code = _follow(log, state)
            finally:
                removed = delete.finish()
            return code or int(not removed)

    def _commands(self, folder: str) -> list[Command]:
        o = self._o
        of = (f'--cluster={o["cluster"]}', f'--zone={o["zone"]}')
        of += (f'--project={o["project"]}',) if o['project'] else ()
        packages = "pip install -q -r requirements.txt 'jax[tpu]'"
        before = ' && '.join(filter(None, (packages, o['before'])))
        create = (
            *('xpk', 'workload', 'create', *of, f'--workload={o["name"]}'),
            *(f'--tpu-type={o["type"]}', f'--num-slices={o["slices"]}'),
            *(f'--base-docker-image={o["image"]}', f'--max-restarts={o["retries"]}'),
            # Besides those of a signal: hosts that lose one, whose node was taken, say so.
            f'--restart-on-exit-codes={LOST}',
            *(f'--script-dir={folder}', '--command', start('.', '', 'python', self._train, before)),
        )
        names = ('jobset-name', o['name']), ('job-index', '0')
        first = ','.join(f'jobset.sigs.k8s.io/{key}={value}' for key, value in names)
        first += ',batch.kubernetes.io/job-completion-index=0'
        kubectl = ('kubectl', '--namespace=default')
        log = (*kubectl, 'logs', '--follow', '--tail=-1', f'--selector={first}')
        where = '{.metadata.name} {.status.conditions[?(@.status=="True")].type}'
        state = (*kubectl, 'get', 'jobset', o['name'], f'--output=jsonpath={where}')
        delete = ('xpk', 'workload', 'delete', *of, f'--workload={o["name"]}', '--force')
        return [
            extract(self._code, folder),
            Command('queue, with this code, on every worker', create),
            Command('the log of the first worker, again after a restart', log),
            Command('until this says Completed or Failed', state),
            Command('tear down', delete),
        ]


def _follow(log: Command, state: Command) -> int:
    """Shows the log until the workload has ended; returns an exit code."""
    shown: tuple[str, ...] = ()
    unknown = 0
    while True:
        log.follow(shown)
        # A log that breaks off, or is none yet, is asked for again from there on.
        now = datetime.datetime.now(datetime.UTC)
        shown = (f'--since-time={now:%Y-%m-%dT%H:%M:%SZ}',)
        words = state.answer().split()
        unknown = 0 if words else unknown + 1
        if 'Completed' in words or 'Failed' in words:
            return int('Failed' in words)
        if unknown == UNKNOWN:
            raise UserError('the cluster no longer says what became of the workload')
        time.sleep(POLL)
