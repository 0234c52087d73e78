"""Random-access document sources: the slot `data.source`."""

import pathlib

from ml_collections import ConfigDict

from bigmodel import config as config_lib
from bigmodel import specs
from bigmodel.data.jsonl_source import JsonlSource
from bigmodel.data.source import Source
from bigmodel.data.stdlib_source import PystdlibSource
from bigmodel.data.text_source import TextSource
from bigmodel.data.tfds_source import TfdsSource

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
