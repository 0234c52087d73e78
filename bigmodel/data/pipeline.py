"""The pipeline as a function of (seed, step), and the front door `open_data`."""

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from bigmodel.data.draws import Draws
from bigmodel.data.mixed import ORIGIN, MixedStore, Open, Store
from bigmodel.data.mixture import MakeOrder
from bigmodel.data.opened import check_turns, open_rows
from bigmodel.data.order import ShuffledOrder, mix
from bigmodel.data.packing import Examples
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError

Batch = dict[str, np.ndarray]
# What a task makes of rows: (rows, draws) -> batch.
Prepare = Callable[[Batch, Draws], Batch]


class Batches:
    """`batches(step)` is this host's slice of the global batch, whatever was asked before.

    With `shuffle` (training) the sequence of rows never ends and is permuted anew every epoch; in
    what order is `make_order(rows, seed)`'s to say.
    Without (evaluation) it is every row once, in order, in `num_batches` batches; these carry
    `valid` float32 (n,), 0 for the rows that fill up the last one (whose other fields are 0).
    `prepare` is given the rows and random numbers that depend on (seed, place in the sequence): new
    ones in each epoch of training, the same ones in every evaluation, whatever the seed.
    `host_rows` are the places in the global batch of the rows that this host reads (default: all);
    several hosts may read the same ones. Raises UserError when a training set is too small.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        host_rows: Int[np.ndarray, ' n'] | None = None,
        prepare: Prepare = lambda rows, draws: rows,
        make_order: MakeOrder = ShuffledOrder,
    ) -> None:
        _check(len(examples), batch_size, shuffle)
        self.examples, self.batch_size, self.shuffle = examples, batch_size, shuffle
        self.num_rows = len(examples)
        self.num_batches = -(-self.num_rows // batch_size)  # of one epoch
        self._host_rows = np.arange(batch_size) if host_rows is None else host_rows
        self._order = make_order(self.num_rows, seed)
        self._prepare, self._key = prepare, mix(np.array([seed * shuffle, shuffle], np.uint64))

    def __call__(self, step: int) -> Batch:
        """Global step -> this host's rows."""
        places = step * self.batch_size + self._host_rows
        if self.shuffle:
            return self._take(self.indices(step), places)
        if not 0 <= step < self.num_batches:
            raise IndexError(f'batch {step} of {self.num_batches}')
        valid = places < self.num_rows
        batch = self._take(np.minimum(places, self.num_rows - 1), places)
        if not valid.all():
            batch = {k: _zero_rows(v, ~valid) for k, v in batch.items()}
        return batch | {'valid': valid.astype(np.float32)}

    def _take(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        keys = mix(self._key[0] ^ mix(self._key[1] ^ places.astype(np.uint64)))
        found = self.examples.take(rows)
        origin = {ORIGIN: found.pop(ORIGIN)} if ORIGIN in found else {}
        return self._prepare(found, Draws(keys)) | origin

    def indices(self, step: int) -> np.ndarray:
        """Training only: the row numbers behind `batches(step)`."""
        return self._order(step * self.batch_size, self.batch_size)[self._host_rows]


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run needs of one split."""

    batches: Batches
    store: Store | MixedStore  # what made the rows, and what is known of it
    about: str  # in words
    parts: Mapping[str, Open] = dataclasses.field(default_factory=dict)  # of a mixture

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the store was written with."""
        return self.store.tokenizer

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in order; empty when unlabelled."""
        return self.store.label_names

    @property
    def fingerprint(self) -> str:
        """Of source, tokenizer and the code that wrote the store (or makes the rows)."""
        return self.store.fingerprint

    def epochs(self, num_rows: int) -> str:
        """How often `num_rows` rows of training are each row, in words."""
        if not self.parts:
            return f'{num_rows / self.batches.num_rows:.2f} epochs'
        times = {n: num_rows * p.share / p.num_rows for n, p in self.parts.items()}
        return 'epochs: ' + ', '.join(f'{name} {n:.2f}' for name, n in times.items())


def open_data(
    data_config: ConfigDict,
    split: str,
    *,
    length: int,
    overlap: int = 0,
    seed: int = 0,
    shuffle: bool = True,
    labelled: bool = False,
    some_unlabelled: bool = False,
    tokenizer: Tokenizer | None = None,
    host_rows: Int[np.ndarray, ' n'] | None = None,
    prepare: Callable[[Batch, Draws, Tokenizer], Batch] = lambda rows, draws, tokenizer: rows,
) -> Data:
    """Opens a split (preparing it when needed) as batches of rows of `length` tokens.

    A causal model asks for `seq_len + 1` tokens with `overlap=1`, so that each token is predicted
    once. `labelled` demands a `label` for each row: UserError when there is none (of a mixture,
    `some_unlabelled` allows sources without). `prepare` makes batches of rows. Neither tokenizer
    nor packing act on a source that makes its rows itself: probes have symbols of their own, images
    have none.
    """
    opened = open_rows(data_config, split, length, overlap, tokenizer)
    store, examples = opened.store, opened.examples
    if labelled and not examples.labelled:
        raise _unlabelled(data_config, store)
    without = [name for name, part in opened.parts.items() if not part.examples.labelled]
    if labelled and without and not some_unlabelled:
        raise UserError(
            f'this task needs labels for all rows, and {without[0]} of data.mixture has none'
        )
    if shuffle and opened.parts:
        check_turns(data_config, opened)
    batch_size = data_config.batch_size
    make = functools.partial(prepare, tokenizer=store.tokenizer)
    batches = Batches(examples, batch_size, seed, shuffle, host_rows, make, opened.make_order)
    return Data(batches, store, opened.about, opened.parts)


def prefetch(
    batches: Callable[[int], Batch],
    start: int,
    stop: int,
    depth: int = 2,
    take: Callable[[queue.Queue], Any] = queue.Queue.get,
) -> Iterator[Batch]:
    """Yields batches start to stop, made ahead by a thread; its exceptions are raised here.

    The thread ends when the generator is closed or collected. `take` waits for the next one.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: Batch | BaseException) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for step in range(start, stop):
                if not put(batches(step)):
                    return
        except BaseException as e:
            put(e)

    thread = threading.Thread(target=work, name='prefetch', daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = take(ready)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def _zero_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[rows] = 0
    return values


def _check(num_rows: int, batch_size: int, shuffle: bool) -> None:
    if batch_size < 1:
        raise UserError(f'data.batch_size={batch_size} must be at least 1')
    if shuffle and num_rows < batch_size:
        raise UserError(
            f'data.batch_size={batch_size}, but the training data has only {num_rows} rows; '
            f'use a smaller data.batch_size or data.seq_len, or more data'
        )


def _unlabelled(data_config: ConfigDict, store: Store | MixedStore) -> UserError:
    if not store.labelled:
        return UserError(
            f'this task needs labels, and data.source={data_config.source!r} has none'
            " (data.format='text(label=\"field\")' names them, for images label='field')"
        )
    return UserError(
        f'this task needs labels, and data.packing={data_config.packing!r} mixes documents; '
        "use 'windows' or 'pad'"
    )
