"""The embedded default data: `datasets/pystdlib.py`, built on first use."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import shutil
import tempfile
from typing import Any

from bigmodel.data import locks
from bigmodel.data.datasets import stdlib_files
from bigmodel.data.source import Source
from bigmodel.data.splits import SPLITS
from bigmodel.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class PystdlibSource(Source):
    """The running Python's standard library, labelled by theme of module."""

    split: str
    cache_dir: str

    name, label_field = 'pystdlib', 'label'

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown('split', self.split, SPLITS)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the documents themselves."""
        return stdlib_files.fingerprint(stdlib_files.documents())

    def quick_key(self) -> str:
        """From the version of Python and the sizes and times of its files."""
        return stdlib_files.quick_key()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._examples[index]
        return {'text': example['text'].decode(), 'label': int(example['label'])}

    def class_names(self, field: str) -> tuple[str, ...]:
        """The themes, which are in `label`."""
        if field != self.label_field:
            raise UserError(f'data.format: pystdlib has its classes in label, not in {field!r}')
        return stdlib_files.LABELS

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the open files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @functools.cached_property
    def _examples(self) -> Any:
        return prepare(pathlib.Path(self.cache_dir)).as_data_source(split=self.split)


def prepare(cache_dir: pathlib.Path) -> Any:
    """The prepared TFDS builder, with its files under `cache_dir`/tfds."""
    from bigmodel.data.datasets.pystdlib import Pystdlib

    data_dir = cache_dir / 'tfds'
    with locks.exclusive(data_dir / 'pystdlib.lock'), _quiet():
        builder = Pystdlib(data_dir=str(data_dir))
        if not (pathlib.Path(builder.data_path) / 'dataset_info.json').exists():
            _build(data_dir, pathlib.Path(builder.data_path))
            builder = Pystdlib(data_dir=str(data_dir))
    return builder


def _build(data_dir: pathlib.Path, target: pathlib.Path) -> None:
    """Builds beside the target and renames, so that a killed build leaves nothing half-made."""
    import tensorflow_datasets as tfds

    from bigmodel.data.datasets.pystdlib import Pystdlib

    for left_by_a_kill in data_dir.glob('incomplete-*'):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix='incomplete-') as folder:
        builder = Pystdlib(data_dir=folder)
        tfds.disable_progress_bar()  # it takes a second
        try:
            builder.download_and_prepare()
        finally:
            tfds.enable_progress_bar()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(builder.data_path, target)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keeps TFDS's announcements out of the output; errors still propagate."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
