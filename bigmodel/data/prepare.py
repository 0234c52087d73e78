"""Writing a token store: shard by shard, in parallel when it pays, resumable after a kill."""

import concurrent.futures
import hashlib
import itertools
import multiprocessing
import os
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bigmodel.data import atomic
from bigmodel.data.documents import Documents
from bigmodel.data.format import Document
from bigmodel.data.plain_tokenizers import utf8
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError

CODE_VERSION = 2  # part of every fingerprint: raise it when the same input gives other files
META, OFFSETS, LABELS = 'meta.json', 'offsets.npy', 'labels.npy'
MARK = 'uint16'  # of a token's mark
SHARD_BYTES = 16 << 20  # of text
MAX_SHARDS = 1024
PARALLEL_BYTES = 48 << 20  # below this, starting processes costs more than they save


def prepare(
    source: Documents, tokenizer: Tokenizer, folder: pathlib.Path, fingerprint: str, workers: int
) -> None:
    """Writes the store of `source` into `folder`; shards that an earlier try finished are kept.

    A shard appears by a rename and the store exists once META does, which is written last: a
    killed process leaves no half-made store, and two writers cannot harm each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = _estimate_bytes(source)
    ranges = _plan(source, size)
    missing = [i for i in range(len(ranges)) if not (folder / _note_name(i)).exists()]
    jobs = [(i, ranges[i]) for i in missing]
    count = min(workers or os.cpu_count() or 1, len(jobs))
    parallel = count > 1 and size >= PARALLEL_BYTES
    with _progress(source) as bar:
        bar.update(len(source) - sum(len(r) for _, r in jobs))
        run = _run_in_processes if parallel else _run_here
        run(source, tokenizer, folder, jobs, bar.update, count)
    _finish(source, tokenizer, folder, fingerprint, len(ranges))


def shard_name(index: int, kind: str = 'tokens') -> str:
    """The file of a shard's tokens, or of their 'marks'."""
    return f'shard-{index:05d}.{kind}'


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _plan(source: Documents, size: int) -> list[range]:
    """Ranges of examples, one a shard; they depend on the source only, so that a restart agrees."""
    count = max(1, min(-(-size // SHARD_BYTES), MAX_SHARDS, len(source)))
    bounds = [len(source) * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


def _estimate_bytes(source: Documents) -> int:
    """The size of the text, from at most 64 examples at even distances; UserError if none."""
    if not len(source):
        raise UserError(f'data.source: the split {source.split!r} of {source.name} is empty')
    sample = np.unique(np.linspace(0, len(source) - 1, 64).astype(int))
    mean = np.mean([sum(_characters(d) for d in source[int(i)]) for i in sample])
    return int(mean * len(source))


def _characters(document: Document) -> int:
    return sum(len(piece.text) for part in document.parts for piece in part)


def _run_here(
    source: Documents,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    jobs: list[tuple[int, range]],
    done: Callable[[int], Any],
    count: int,
) -> None:
    for index, documents in jobs:
        _write_shard(source, tokenizer, folder, index, documents, done)


def _run_in_processes(
    source: Documents,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    jobs: list[tuple[int, range]],
    done: Callable[[int], Any],
    count: int,
) -> None:
    # Spawned, not forked: the parent may hold JAX's threads, which do not survive a fork.
    pool = concurrent.futures.ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(source, tokenizer, folder),
    )
    try:
        futures = {pool.submit(_work, i, documents): len(documents) for i, documents in jobs}
        for future in concurrent.futures.as_completed(futures):
            future.result()
            done(futures[future])
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Any, ...] = ()


def _start_worker(*state: Any) -> None:
    global _worker
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # the processes are the parallelism
    _worker = state


def _work(index: int, documents: range) -> None:
    _write_shard(*_worker, index, documents, lambda n: None)


def _write_shard(
    source: Documents,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    index: int,
    documents: range,
    done: Callable[[int], Any],
) -> None:
    """Writes one shard's tokens and marks, then a note of lengths, labels and sizes, which
    completes it.
    """
    lengths, labels, num_bytes, gzip_bytes = [], [], 0, 0
    sums, marks = {'tokens': hashlib.sha256(), 'marks': hashlib.sha256()}, []

    def write(file: Any) -> None:
        nonlocal num_bytes, gzip_bytes
        for i in documents:
            for document in source[i]:
                data, ids, marks_of = _encode(source, tokenizer, i, document)
                num_bytes += len(data)
                gzip_bytes += len(zlib.compress(data, 9))
                sums['tokens'].update(ids)
                file.write(ids)
                lengths.append(len(ids))
                labels.append(document.label)
                if source.format.marked:
                    marks.append(marks_of)
            done(1)

    atomic.write(folder / shard_name(index), write)
    if source.format.marked:
        joined = np.concatenate(marks)
        sums['marks'].update(joined)
        atomic.write(folder / shard_name(index, 'marks'), lambda file: file.write(joined))
    kind = np.float32 if source.format.scored else np.int32
    arrays = {'lengths': np.array(lengths, np.int64), 'labels': np.array(labels, kind)}
    sizes = {'num_bytes': num_bytes, 'gzip_bytes': gzip_bytes}
    hashes = {f'sha256_{name}': digest.hexdigest() for name, digest in sums.items()}
    note = arrays | sizes | hashes
    atomic.write(folder / _note_name(index), lambda file: np.savez(file, **note))


def _encode(
    source: Documents, tokenizer: Tokenizer, index: int, document: Document
) -> tuple[bytes, np.ndarray, np.ndarray]:
    """A document's UTF-8 bytes, its tokens with specials in the store's type, and their marks."""
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    last = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    if len(document.parts) > 1 and not last:
        raise UserError(
            f'data.format: documents of several parts need a token between them, which '
            f'data.tokenizer={tokenizer.fingerprint.split("-")[0]} does not have; use bytes or hf'
        )
    data, ids, marks = [], [first], [np.zeros(len(first))]
    for part in document.parts:
        for text, mark, special in part:
            try:
                data.append(utf8(text))
                ids.append(tokenizer.encode(text, special) if special else tokenizer.encode(text))
            except UserError as e:
                raise UserError(f'{source.source.place(index)}: {e}') from e
            marks.append(np.full(len(ids[-1]), mark))
            if source.format.first_marked:
                marks[-1][1:] = 0
        ids.append(last)
        # What ends a part is read and learned as the part's last piece is.
        marks.append(np.full(len(last), part[-1].mark if part else 0))
    joined = np.concatenate(ids).astype(_dtype(tokenizer))
    return b''.join(data), joined, np.concatenate(marks).astype(MARK)


def _finish(
    source: Documents, tokenizer: Tokenizer, folder: pathlib.Path, fingerprint: str, count: int
) -> None:
    """Joins the shards' notes into offsets, labels and META, and removes what is left over."""
    notes = [dict(np.load(folder / _note_name(i))) for i in range(count)]
    lengths = np.concatenate([n['lengths'] for n in notes])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.concatenate([n['labels'] for n in notes])
    atomic.write(folder / OFFSETS, lambda file: np.save(file, offsets))
    atomic.write(folder / LABELS, lambda file: np.save(file, labels))
    num_bytes, num_tokens = sum(int(n['num_bytes']) for n in notes), int(offsets[-1])
    if not num_bytes:
        raise UserError(f'data.source: the split {source.split!r} of {source.name} has no text')
    meta = {
        'source': source.name,
        'split': source.split,
        'fingerprint': fingerprint,
        'num_tokens': num_tokens,
        'num_documents': len(lengths),
        'num_bytes': num_bytes,
        'gzip_bits_per_byte': 8 * sum(int(n['gzip_bytes']) for n in notes) / num_bytes,
        'vocab_size': tokenizer.vocab_size,
        'pad_id': tokenizer.pad_id,
        'dtype': _dtype(tokenizer),
        'label_names': list(source.label_names),
        'labelled': bool(source.label_names) or source.format.scored,
        'marked': source.format.marked,
        'group': source.format.group,
        'shards': [{'num_tokens': int(n['lengths'].sum())} for n in notes],
        'files': _files(folder, notes, source.format.marked),
    }
    atomic.write_json(folder / META, meta)
    for path in folder.iterdir():
        if path.name not in meta['files'] and path.name != META:
            path.unlink(missing_ok=True)


def _files(
    folder: pathlib.Path, notes: list[dict[str, Any]], marked: bool
) -> dict[str, dict[str, Any]]:
    kinds = ('tokens', 'marks') if marked else ('tokens',)
    known = {shard_name(i, k): str(n[f'sha256_{k}']) for i, n in enumerate(notes) for k in kinds}
    known |= {name: sha256(folder / name) for name in (OFFSETS, LABELS)}
    return {n: {'size': (folder / n).stat().st_size, 'sha256': sha} for n, sha in known.items()}


def _dtype(tokenizer: Tokenizer) -> str:
    return 'uint16' if tokenizer.vocab_size <= 1 << 16 else 'uint32'


def _note_name(index: int) -> str:
    return f'shard-{index:05d}.npz'


def _progress(source: Documents) -> Any:
    from tqdm import tqdm

    slow = 0.1 if sys.stderr.isatty() else 30  # seconds between lines of a log file
    text = f'preparing {source.name} {source.split}'
    return tqdm(total=len(source), desc=text, unit='doc', delay=1, mininterval=slow)
