"""The base of a run: the checkpoint from which it reads the frozen parameters that its own
checkpoints leave out (`checkpoint.only_trained`).
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class Base:
    """`checkpoint` is a folder run/checkpoints/STEP; `parameters` are the paths that are read from
    it, whole or the layers below those that are trained. Without any there is no base.
    """

    checkpoint: str = ''
    parameters: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What `run.json` says of it; reads all of the checkpoint once."""
        if not self.parameters:
            return {}
        return {
            'checkpoint': self.checkpoint,
            'fingerprint': _fingerprint(pathlib.Path(self.checkpoint)),
            'parameters': list(self.parameters),
        }


def base_of_run(run: pathlib.Path, check: bool = False) -> Base:
    """The base that a run began with.

    Raises UserError where its checkpoint is missing or, with `check`, is not what it was.
    """
    file = run / 'run.json'
    there = json.loads(file.read_text()).get('base', {}) if file.exists() else {}
    if not there:
        return Base()
    folder = pathlib.Path(there['checkpoint'])
    if not folder.is_dir():
        raise UserError(
            f'{run} holds trained parameters alone; the others are of {folder}, which is not there '
            f'(seen from {pathlib.Path.cwd().name or "/"}/); put it back'
        )
    if check and _fingerprint(folder) != there['fingerprint']:
        raise UserError(
            f'{run} holds trained parameters alone; the others are of {folder}, which is no longer '
            f'what it was (fingerprint {there["fingerprint"]}); put it back'
        )
    return Base(there['checkpoint'], tuple(there['parameters']))


def _fingerprint(folder: pathlib.Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in folder.rglob('*') if p.is_file()):
        digest.update(f'{file.relative_to(folder)} {file.stat().st_size}\n'.encode())
        with file.open('rb') as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
