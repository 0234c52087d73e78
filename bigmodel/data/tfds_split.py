"""What the sources that read a TFDS data set have in common: its files."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from bigmodel.data import tfds_prepared
from bigmodel.data.splits import SPLITS
from bigmodel.errors import UserError


class TfdsSplit:
    """One split of a prepared TFDS data set; a dataclass of this has the fields named here.

    `train`, `validation` and `test` say which TFDS split or slice each of ours reads.
    """

    split: str
    dataset: str
    data_dir: str
    train: str
    validation: str
    test: str

    @property
    def name(self) -> str:
        """For folders and messages."""
        return 'tfds-' + ''.join(c if c.isalnum() else '_' for c in self.dataset)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of TFDS's description of the prepared files, and of this source's arguments."""
        digest = hashlib.sha256(repr(self.arguments()).encode())
        for file in sorted(self.folder.iterdir()):
            digest.update(f'{file.name} {file.stat().st_size}\n'.encode())
            if file.suffix == '.json':
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def arguments(self) -> tuple[Any, ...]:
        """Those that decide what is read."""
        raise NotImplementedError

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        """Where the prepared files are."""
        return tfds_prepared.folder(self.dataset, self.data_dir)

    @functools.cached_property
    def builder(self) -> Any:
        """A read-only TFDS builder."""
        return tfds_prepared.open_folder(self.folder)

    def open_examples(self, decoders: Any = None) -> Any:
        """The examples by index; raises UserError for a split that is not there."""
        split = getattr(self, self.split) if self.split in SPLITS else self.split
        try:
            assert self.builder.info.splits[split].num_examples is not None
            return self.builder.as_data_source(split=split, decoders=decoders)
        except (ValueError, KeyError, AssertionError) as e:
            raise UserError(
                f'data.source: {self.dataset} has no split {split!r}; there are: '
                f'{", ".join(self.builder.info.splits)}. A slice will do, as in '
                f"validation='train[90%:]', train='train[:90%]'"
            ) from e

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # without the open files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
