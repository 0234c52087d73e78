"""The token store: a split as memory-mapped token ids with document offsets, prepared once."""

import functools
import hashlib
import json
import pathlib
import urllib.parse
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bigmodel.data import atomic, locks, prepare, tokenizers
from bigmodel.data.documents import Documents
from bigmodel.data.sources import build_documents, cache_root
from bigmodel.errors import UserError


class TokenStore:
    """A prepared split. A document is `[bos] part [eos] …`, with whichever the tokenizer has.

    Of `group` successive documents each is a part of one example (two responses to a prompt, say).
    Raises UserError when a file is missing or has another size than was written.
    """

    def __init__(self, folder: pathlib.Path, newly_prepared: bool = False) -> None:
        self.folder, self.newly_prepared = folder, newly_prepared
        self.meta = _read_meta(folder)
        _check_sizes(folder, self.meta)
        self.num_tokens: int = self.meta['num_tokens']
        self.num_documents: int = self.meta['num_documents']
        self.num_bytes: int = self.meta['num_bytes']
        self.gzip_bits_per_byte: float = self.meta['gzip_bits_per_byte']
        self.vocab_size: int = self.meta['vocab_size']
        self.pad_id: int = self.meta['pad_id']
        self.group: int = self.meta['group']
        self.label_names: tuple[str, ...] = tuple(self.meta['label_names'])
        self.fingerprint: str = self.meta['fingerprint']
        self.split: str = self.meta['split']
        sizes = [s['num_tokens'] for s in self.meta['shards']]
        self._bounds = np.cumsum([0, *sizes])
        self._shards: dict[tuple[str, int], np.ndarray] = {}

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 (documents + 1,): document i is tokens offsets[i] to offsets[i + 1]."""
        return np.load(self.folder / prepare.OFFSETS, mmap_mode='r').view(np.ndarray)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """(documents,): int32 classes, or float32 numbers; None when there are no labels."""
        return np.load(self.folder / prepare.LABELS) if self.labelled else None

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that the store was written with."""
        return tokenizers.load_tokenizer(self.folder.parent)

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The tokens at global `positions` (any shape), in the store's own integer type."""
        return self._gather(positions, 'tokens', self.meta['dtype'])

    @property
    def labelled(self) -> bool:
        """Whether documents have labels, classes or numbers."""
        return self.meta['labelled']

    @property
    def marked(self) -> bool:
        """Whether tokens have marks (`data/formats.py`)."""
        return self.meta['marked']

    def marks(self, positions: np.ndarray) -> np.ndarray:
        """The marks of the tokens at global `positions` (any shape), uint16."""
        return self._gather(positions, 'marks', prepare.MARK)

    def _gather(self, positions: np.ndarray, kind: str, dtype: str) -> np.ndarray:
        if len(self._bounds) == 2:
            return self._shard(kind, 0, dtype)[positions]
        out = np.empty(positions.shape, dtype)
        shard = np.searchsorted(self._bounds, positions, side='right') - 1
        for i in np.unique(shard).tolist():
            inside = shard == i
            out[inside] = self._shard(kind, i, dtype)[positions[inside] - self._bounds[i]]
        return out

    def verify(self) -> None:
        """Reads every shard and raises UserError for one whose content has changed."""
        for name, file in self.meta['files'].items():
            if prepare.sha256(self.folder / name) != file['sha256']:
                raise _damaged(self.folder, name, 'its content has changed')

    def summary(self) -> dict[str, Any]:
        """What a report says of this split; sizes in bytes."""
        return {
            'folder': str(self.folder),
            'newly_prepared': self.newly_prepared,
            'documents': self.num_documents,
            'tokens': self.num_tokens,
            'bytes': self.num_bytes,
            'bytes_on_disk': sum(f['size'] for f in self.meta['files'].values()),
            'shards': len(self.meta['shards']),
            'vocab_size': self.vocab_size,
            'labels': len(self.label_names),
            'gzip_bits_per_byte': self.gzip_bits_per_byte,
        }

    def _shard(self, kind: str, index: int, dtype: str) -> np.ndarray:
        if (kind, index) not in self._shards:
            path = self.folder / prepare.shard_name(index, kind)
            self._shards[kind, index] = np.memmap(path, dtype, 'r').view(np.ndarray)
        return self._shards[kind, index]


def open_store(
    data_config: ConfigDict, split: str, tokenizer: tokenizers.Tokenizer | None = None
) -> TokenStore:
    """Opens the token store of a split, preparing it first when it is not there.

    `tokenizer` replaces the one that the config names (that of a pre-trained model, say).
    """
    source = build_documents(data_config, split)
    root = cache_root(data_config) / 'tokens'
    note = root / 'index' / f'{_quick_key(data_config, source, tokenizer)}.json'
    home, new = _noted(root, note), False
    if home is None or not (home / _folder_name(split) / prepare.META).exists():
        home, new = _prepare(data_config, source, tokenizer, root)
        atomic.write_json(note, {'folder': home.name})
    return TokenStore(home / _folder_name(split), new)


def _prepare(
    data_config: ConfigDict,
    source: Documents,
    tokenizer: tokenizers.Tokenizer | None,
    root: pathlib.Path,
) -> tuple[pathlib.Path, bool]:
    """The data set's folder, and whether the split had to be prepared in it."""
    if tokenizer is None:
        training = functools.partial(build_documents, data_config, 'train')
        tokenizer = tokenizers.build_tokenizer(data_config.tokenizer, training)
    key = f'{prepare.CODE_VERSION} {source.fingerprint} {tokenizer.fingerprint}'
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]
    home = root / f'{source.name}-{fingerprint}'
    folder = home / _folder_name(source.split)
    with locks.exclusive(home / f'{folder.name}.lock'):
        new = not (folder / prepare.META).exists()
        if new:
            tokenizer.save(home)
            prepare.prepare(source, tokenizer, folder, fingerprint, data_config.workers)
    return home, new


def _quick_key(
    data_config: ConfigDict, source: Documents, tokenizer: tokenizers.Tokenizer | None
) -> str:
    if tokenizer is None:
        tokens = tokenizers.quick_key(data_config.tokenizer)
    else:
        tokens = tokenizer.fingerprint
    key = f'{prepare.CODE_VERSION} {data_config.source} {source.quick_key()} {tokens}'
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _noted(root: pathlib.Path, note: pathlib.Path) -> pathlib.Path | None:
    """The data set's folder that an earlier run noted for the same quick key, if any."""
    try:
        return root / json.loads(note.read_text())['folder']
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the note only saves time


def _folder_name(split: str) -> str:
    return urllib.parse.quote(split, safe='')


def _read_meta(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / prepare.META).read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise _damaged(folder, prepare.META, str(e)) from e


def _check_sizes(folder: pathlib.Path, meta: dict[str, Any]) -> None:
    for name, file in meta['files'].items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size is None:
            raise _damaged(folder, name, 'it is missing')
        if size != file['size']:
            raise _damaged(folder, name, f'it has {size} bytes instead of {file["size"]}')


def _damaged(folder: pathlib.Path, name: str, why: str) -> UserError:
    return UserError(
        f'token store: {folder / name} is damaged ({why}); '
        f'delete the folder {folder} and start again: it will be prepared anew'
    )
