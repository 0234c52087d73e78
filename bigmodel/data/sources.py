"""Random-access document sources: the slot `data.source`."""

import pathlib
from typing import Any, Protocol

from ml_collections import ConfigDict

from bigmodel import config as config_lib
from bigmodel import specs
from bigmodel.data.jsonl_source import JsonlSource
from bigmodel.data.stdlib_source import PystdlibSource
from bigmodel.data.text_source import TextSource
from bigmodel.data.tfds_source import TfdsSource


class Source(Protocol):
    """One split of a data set, a document at a time; cheap to build, picklable."""

    name: str
    split: str

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in order; empty when unlabelled."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content of the whole data set (all splits); may read all of it."""

    def quick_key(self) -> str:
        """Changes whenever `fingerprint` might have: from names, sizes and times only."""

    def __len__(self) -> int:
        """The number of documents in this split."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{'text': str}`, with `'label': int` when the source is labelled."""


SOURCES = {
    'pystdlib': PystdlibSource,
    'tfds': TfdsSource,
    'text': TextSource,
    'jsonl': JsonlSource,
}


def build_source(data_config: ConfigDict, split: str) -> Source:
    """The source that `data_config.source` names; raises UserError for an unknown or bad one."""
    return specs.make(
        SOURCES,
        data_config.source,
        'data.source',
        split=split,
        path=data_config.path,
        cache_dir=str(cache_root(data_config)),
    )


def cache_root(data_config: ConfigDict) -> pathlib.Path:
    """The folder for prepared data: `data_config.cache_dir`, or the user's cache."""
    return pathlib.Path(data_config.cache_dir or config_lib.cache_dir())
