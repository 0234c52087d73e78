"""The run directory, a contract: everything downstream reads only what is written here.

config.json run.json metrics.jsonl result.json loss.png samples.txt tokenizer/ checkpoints/
tensorboard/
"""

import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any

from bigmodel import config as config_lib
from bigmodel import devices, hosts
from bigmodel.config import ConfigDict
from bigmodel.data.atomic import write_json, write_text
from bigmodel.errors import UserError
from bigmodel.training.setup import Setup


class RunDir:
    """The files of one run."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.config = path / 'config.json'
        self.run = path / 'run.json'
        self.metrics = path / 'metrics.jsonl'
        self.result = path / 'result.json'
        self.loss = path / 'loss.png'
        self.samples = path / 'samples.txt'
        self.tokenizer = path / 'tokenizer'
        self.checkpoints = path / 'checkpoints'
        self.tensorboard = path / 'tensorboard'

    def check(self, config: ConfigDict) -> None:
        """Raises UserError when the directory holds a run of another config; changes nothing.

        A run may go on elsewhere, with another `sharding`: its numbers are the same up to rounding.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f'--workdir={self.path} is a file')
        if not self.config.exists():
            if any(self.path.iterdir()):
                raise UserError(f'--workdir={self.path} is not empty and holds no run')
            return
        changes = config_lib.diff(config_lib.read_json(self.config), config)
        changes = [change for change in changes if not change.startswith('sharding.')]
        if changes:
            raise UserError(
                f'{self.path} holds a run of another config ({"; ".join(changes)}); '
                f'choose another --workdir or --config.name, or delete it'
            )

    def add(self, **entries: Any) -> None:
        """Writes more entries into `run.json`, on the first host."""
        if hosts.is_first():
            write_json(self.run, json.loads(self.run.read_text()) | entries)

    def finished(self) -> dict[str, Any] | None:
        """The result of a run that has ended, or None."""
        if not self.result.exists():
            return None
        try:
            return json.loads(self.result.read_text())
        except json.JSONDecodeError as e:
            raise UserError(f'{self.result} is damaged ({e}); delete it to finish again') from e

    def create(self, setup: Setup) -> None:
        """Writes what is known before the first step; of a run that goes on, it stays as it was.

        The first host does. Raises UserError where another one does not see what it wrote.
        """
        hosts.check_alike({'data': setup.data.fingerprint, 'kernel': setup.kernel})
        hosts.from_first(lambda: self._create(setup))
        if not all(hosts.gather(self.run.exists())):
            raise UserError(
                f'--workdir={self.path} is not the same folder on all hosts; give one on a file '
                f'system that they share'
            )

    def moved(self, setup: Setup) -> str:
        """Says where a run goes on, if not where it was, or ''; records it."""
        there, here = json.loads(self.run.read_text()), _place(setup)
        if all(there[key] == value for key, value in here.items()):
            return ''
        write_text(self.config, config_lib.to_json(setup.config))
        self.add(**here)
        return f'on {_in_words(here)}; before: {_in_words(there)}'

    def _create(self, setup: Setup) -> None:
        """Raises UserError when data, a companion or a base is not what the run began with."""
        if self.run.exists():
            there = json.loads(self.run.read_text())
            began = there['data_fingerprint']
            if began != setup.data.fingerprint:
                raise UserError(
                    f'{self.path} began on other data (fingerprint {began}, now '
                    f'{setup.data.fingerprint}); restore the data or choose another --workdir'
                )
            companions = there.get('companions', {})
            if companions != _companions(setup):
                raise UserError(
                    f'{self.path} began with the companions {companions}, now '
                    f'{_companions(setup)}; restore those checkpoints or choose another --workdir'
                )
            base = there.get('base', {})
            # Later on it is the recorded one that is read.
            if base and not any(self.checkpoints.glob('*')) and base != setup.base.record():
                raise UserError(
                    f'{self.path} began from {base["checkpoint"]}, and init_from.path names '
                    f'{setup.base.checkpoint} now, or that has changed; set init_from.path to '
                    f'{base["checkpoint"]}, or delete the run to begin anew'
                )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config_lib.to_json(setup.config))
        except OSError as e:
            raise UserError(f'--workdir={self.path} cannot be written: {e.strerror}') from e
        self.tokenizer.mkdir(exist_ok=True)
        setup.data.tokenizer.save(self.tokenizer)
        write_json(self.run, _provenance(setup))


def _provenance(setup: Setup) -> dict[str, Any]:
    return {
        'command': shlex.join(sys.argv),
        'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        'git': _git_state(),
        'versions': hosts.versions(),
        **_place(setup),
        'kernel': setup.kernel,
        'flops_per_token': setup.flops_per_token,
        **dataclasses.asdict(setup.sizes),
        'vocab_size': setup.data.tokenizer.vocab_size,
        'tokens_per_step': setup.tokens_per_step,
        'data_fingerprint': setup.data.fingerprint,
        'base': setup.base.record(),
        'documents_cut': setup.data.batches.examples.num_truncated,
        'mixture': _mixture(setup),
        'companions': _companions(setup),
        'gzip_bits_per_byte': setup.data.store.gzip_bits_per_byte,
    }


def _place(setup: Setup) -> dict[str, Any]:
    """Where a run computes, which may change when it goes on."""
    mesh = dict(setup.sharding.mesh.shape)
    return {'devices': devices.describe(), 'hosts': hosts.count(), 'mesh': mesh}


def _in_words(place: dict[str, Any]) -> str:
    mesh = ', '.join(f'{axis}={n}' for axis, n in place['mesh'].items() if n > 1) or 'one device'
    return f'{place["hosts"]} hosts, {place["devices"]}, mesh {mesh}'


def _mixture(setup: Setup) -> dict[str, dict[str, Any]]:
    """What each source of a mixture is; empty when there is one alone."""
    return {
        name: {'fingerprint': p.store.fingerprint, 'weight': p.share, 'rows': p.num_rows}
        for name, p in setup.data.parts.items()
    }


def _companions(setup: Setup) -> dict[str, str]:
    """The checkpoint of each companion."""
    return {name: companion.checkpoint for name, companion in setup.companions.items()}


def _git_state() -> dict[str, Any]:
    """The commit of the code and whether files differ from it; empty outside a checkout."""
    root = pathlib.Path(__file__).parents[1]
    packed = (root / 'commit.txt').read_text().strip()
    if not packed.startswith('$'):  # `git archive` has put its commit there
        return {'commit': packed, 'dirty': False}

    def git(*args: str) -> str:
        done = subprocess.run(
            ('git', '-C', str(root), *args), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return {
            'commit': git('rev-parse', 'HEAD'),
            'dirty': bool(git('status', '--porcelain', '--untracked-files=no')),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}
