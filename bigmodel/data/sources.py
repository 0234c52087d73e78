"""The slot `data.source`: random-access sources of documents, and sources that make rows."""

import pathlib

from ml_collections import ConfigDict

from bigmodel import config as config_lib
from bigmodel import specs
from bigmodel.data.digits import Digits
from bigmodel.data.documents import Documents
from bigmodel.data.formats import build_format
from bigmodel.data.jsonl_source import JsonlSource
from bigmodel.data.probes import PROBES
from bigmodel.data.rows import RowSource
from bigmodel.data.source import Source
from bigmodel.data.stdlib_source import PystdlibSource
from bigmodel.data.stdlib_tokens_source import PystdlibTokens
from bigmodel.data.summaries_source import PystdlibSummaries
from bigmodel.data.text_source import TextSource
from bigmodel.data.tfds_images import TfdsImages
from bigmodel.data.tfds_source import TfdsSource
from bigmodel.errors import UserError

ROW_SOURCES = {'digits': Digits, 'tfds_images': TfdsImages, **PROBES}
SOURCES = {
    'pystdlib': PystdlibSource,
    'pystdlib_summaries': PystdlibSummaries,
    'pystdlib_tokens': PystdlibTokens,
    'tfds': TfdsSource,
    'text': TextSource,
    'jsonl': JsonlSource,
    **ROW_SOURCES,
}


def build_documents(data_config: ConfigDict, split: str) -> Documents:
    """The documents that `data_config.format` makes of `data_config.source`."""
    return Documents(build_source(data_config, split), build_format(data_config.format))


def build_source(data_config: ConfigDict, split: str) -> Source:
    """The examples that `data_config.source` names; raises UserError for an unknown or bad one."""
    source = _build(data_config, split)
    if isinstance(source, RowSource):
        raise UserError(
            f'data.source={data_config.source!r} has no documents: its rows are made when they are '
            f'read, so there is nothing to prepare or to train a tokenizer on'
        )
    return source


def build_row_source(data_config: ConfigDict, split: str) -> RowSource | None:
    """The source of rows that `data_config.source` names; None where it names documents."""
    if specs.parse(data_config.source, 'data.source').name not in ROW_SOURCES:
        return None
    return _build(data_config, split)


def _build(data_config: ConfigDict, split: str) -> Source | RowSource:
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
