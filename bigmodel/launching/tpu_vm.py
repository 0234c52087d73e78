"""The launcher `tpu_vm`: a TPU slice that exists as long as the run, by gcloud."""

import tempfile
import time
from collections.abc import Sequence

from bigmodel.errors import UserError
from bigmodel.launching.code import archive, commit, install, start, unpack
from bigmodel.launching.command import Command, interruptible, number, read, require

TPU_VM = {
    'name': None,
    'zone': None,
    'type': None,  # v5litepod-256
    'version': None,  # v2-alpha-tpuv5-lite
    'project': '',
    'spot': '',
    'before': '',  # a shell line, on every worker: mount what --workdir is on
    'retries': '10',  # of a resource that was preempted
    'keep': '',  # 1: no tear-down, and the next run finds it
}
POLL = 20.0  # seconds
UNKNOWN = 15  # times in a row that gcloud may not say the state
SETTLING = 4  # times that it may still call a slice ACTIVE whose workers are gone
GONE = ('SUSPENDING', 'SUSPENDED', 'FAILED', 'DELETING')


class TpuVm:
    """One TPU slice, which exists as long as the run."""

    def __init__(self, text: str, train: Sequence[str]) -> None:
        self._o, self._train, self._code = read(text, '--pod', TPU_VM), train, commit()
        self._retries = number(self._o, 'retries', '--pod')
        of = (f'--zone={self._o["zone"]}',)
        self._of = of + ((f'--project={self._o["project"]}',) if self._o['project'] else ())

    def commands(self) -> list[Command]:
        """What is run, in order, when nothing is preempted."""
        return self._commands(tempfile.gettempdir())

    def run(self) -> int:
        """Trains to the end, also after preemptions, and tears down; returns an exit code."""
        require('gcloud', 'git')
        with tempfile.TemporaryDirectory() as folder, interruptible():
            create, show, pack, *use, drop = self._commands(folder)
            pack.must()
            for _ in range(self._retries + 1):
                self._create(create, show)
                gone = False
                try:
                    code = self._wait(show) or next(filter(None, (c.run() for c in use)), 0)
                    gone = bool(code) and self._gone(show)
                finally:
                    removed = (self._o['keep'] and not gone) or drop.finish()
                if not gone:
                    return code or int(not removed)
                print('the slice was preempted; queued again', flush=True)
        raise UserError(f'the slice was preempted {self._retries + 1} times; see --pod retries=')

    def _commands(self, folder: str) -> list[Command]:
        o, all_of = self._o, (*self._of, '--worker=all')
        queue, vm = ('gcloud', 'compute', 'tpus', 'queued-resources'), ('gcloud', 'compute', 'tpus')
        name, ssh = o['name'], (*vm, 'tpu-vm', 'ssh', o['name'], *all_of)
        kind = (f'--accelerator-type={o["type"]}', f'--runtime-version={o["version"]}')
        spot = ('--spot',) if o['spot'] else ()
        bundle = f'bigmodel-{self._code[:12]}.tar.gz'
        line = unpack(bundle, 'bigmodel', self._code)
        line += f' && {install("bigmodel", self._code, "jax[tpu]")}'
        train = start('bigmodel', self._code, '.venv/bin/python', self._train, o['before'])
        show = (*queue, 'describe', name, *self._of, '--format=value(state.state)')
        drop = (*queue, 'delete', name, *self._of, '--force', '--quiet')
        send = (*vm, 'tpu-vm', 'scp', f'{folder}/{bundle}', f'{name}:', *all_of)
        return [
            Command(
                'queue the slice',
                (*queue, 'create', name, f'--node-id={name}', *self._of, *kind, *spot),
            ),
            Command('until it is ACTIVE, again and again', show),
            archive(self._code, f'{folder}/{bundle}'),
            Command('send the code', send),
            Command('install', (*ssh, '--command', line)),
            Command('start on every worker; the first one speaks', (*ssh, '--command', train)),
            Command('tear down', drop),
        ]

    def _create(self, create: Command, show: Command) -> None:
        if self._o['keep'] and show.answer():
            print('the slice is there already', flush=True)
            return
        try:
            create.must()
        except KeyboardInterrupt:
            # It is not known whether there is a slice, nor whose a slice of that name is.
            print('interrupted while the slice was queued; see whether it is there:')
            print('gcloud compute tpus queued-resources list', *self._of, flush=True)
            raise

    def _wait(self, show: Command) -> int:
        """0 when the slice is there, 1 when it was preempted before."""
        unknown = 0
        while (state := show.answer()) != 'ACTIVE':
            unknown = 0 if state else unknown + 1
            if state == 'FAILED' or unknown == UNKNOWN:
                Command('why', tuple(w for w in show.words if not w.startswith('--format'))).run()
                raise UserError('the slice cannot be made, or not be seen; gcloud says why above')
            if state in GONE:
                return 1
            print(f'the slice is {state or "unknown"}', flush=True)
            time.sleep(POLL)
        return 0

    def _gone(self, show: Command) -> bool:
        """Whether the slice was preempted, which its state says later than its workers do."""
        for _ in range(SETTLING):
            if show.answer() in GONE:
                return True
            time.sleep(POLL)
        return False
