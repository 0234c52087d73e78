"""Opening a split: of one source, or of each source of a mixture."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

from ml_collections import ConfigDict

from bigmodel.data.documents import Documents
from bigmodel.data.mixed import MixedRows, MixedStore, Open, Store
from bigmodel.data.mixture import MakeOrder, MixedOrder, Turns, configs_of, parts_of
from bigmodel.data.order import ShuffledOrder
from bigmodel.data.packing import Examples, build_examples, num_alike
from bigmodel.data.sources import build_documents, build_row_source
from bigmodel.data.store import TokenStore, open_store
from bigmodel.data.tokenizers import Tokenizer, build_tokenizer
from bigmodel.errors import UserError


@dataclasses.dataclass(frozen=True)
class Opened:
    """A split as rows, with what made them; `parts` are the sources of a mixture, by name."""

    store: Store | MixedStore
    examples: Examples
    about: str
    make_order: MakeOrder = ShuffledOrder
    parts: Mapping[str, Open] = dataclasses.field(default_factory=dict)


def open_rows(
    data_config: ConfigDict, split: str, length: int, overlap: int, tokenizer: Tokenizer | None
) -> Opened:
    """The rows of `length` tokens of a split, of one source or of a mixture."""
    parts = parts_of(data_config)
    if not parts:
        return _open_one(data_config, split, length, overlap, tokenizer)
    tokenizer = tokenizer or shared_tokenizer(data_config)
    turns = Turns([part.weight for part in parts.values()])
    found = {}
    for (name, part), count in zip(parts.items(), turns.counts.tolist(), strict=True):
        one = _named(name, _open_one)(part.config, split, length, overlap, tokenizer)
        found[name] = Open(count / turns.period, one.store, one.examples, one.about)
    store_of_all = functools.partial(MixedStore, found)
    store_of_all(())  # other tokens are a better reason than other fields
    rows = MixedRows(found)
    return Opened(
        store_of_all(rows.label_names),
        rows,
        '\n'.join(f'{n}: {100 * p.share:.4g} % of rows; {p.about}' for n, p in found.items()),
        lambda num_rows, seed: MixedOrder(turns, rows.sizes, seed),
        found,
    )


def check_turns(data_config: ConfigDict, opened: Opened) -> None:
    """Raises UserError for a source of a training set that a batch would use up."""
    turns = Turns([part.weight for part in parts_of(data_config).values()])
    needed = turns.most_of(data_config.batch_size)
    for (name, part), most in zip(opened.parts.items(), needed, strict=True):
        if not most:
            raise UserError(
                f'data.mixture: {name} has no row in {turns.period:,}; give it a larger weight'
            )
        if part.num_rows < most:
            raise UserError(
                f'data.mixture: {name} has only {part.num_rows} rows, of which a batch would have '
                f'{most}; use a smaller weight, data.batch_size or data.seq_len, or more data'
            )


def open_stores(data_config: ConfigDict, split: str) -> dict[str, TokenStore]:
    """The token store of each source by name, prepared when needed; '' is that of a run's one."""
    if not data_config.mixture:
        return {'': open_store(data_config, split)}
    tokenizer = shared_tokenizer(data_config)
    configs = configs_of(data_config)
    return {name: _named(name, open_store)(c, split, tokenizer) for name, c in configs.items()}


class JoinedTexts:
    """The documents of several sources, for a tokenizer that is trained on them."""

    def __init__(self, sources: list[Documents]) -> None:
        self._sources = sources

    def __len__(self) -> int:
        return sum(len(source) for source in self._sources)

    def texts(self) -> Iterator[str]:
        """All text, a document at a time."""
        return itertools.chain.from_iterable(source.texts() for source in self._sources)


def training_texts(data_config: ConfigDict) -> JoinedTexts:
    """The text of the training split, of all sources that have documents; UserError for none."""
    every = configs_of(data_config)
    configs = {n: c for n, c in every.items() if not build_row_source(c, 'train')} or every
    return JoinedTexts([_named(n, build_documents)(c, 'train') for n, c in configs.items()])


def shared_tokenizer(data_config: ConfigDict) -> Tokenizer:
    """The tokenizer of a mixture: one that has to be trained sees the text of all its sources."""
    training = functools.partial(training_texts, data_config)
    return build_tokenizer(data_config.tokenizer, training)


def _open_one(
    data_config: ConfigDict, split: str, length: int, overlap: int, tokenizer: Tokenizer | None
) -> Opened:
    source = build_row_source(data_config, split)
    if source is not None:
        rows = source.open(length)
        return Opened(rows, rows, f'{data_config.source}: {rows.summary()}')
    store = open_store(data_config, split, tokenizer)
    about = (
        f'{data_config.source}, {data_config.tokenizer} tokens: {store.num_tokens / 1e6:.2f}M '
        f'in {store.num_documents:,} documents; rows of {length - overlap}, {data_config.packing}'
    )
    examples = build_examples(data_config.packing, store, length, overlap)
    return Opened(store, examples, about + _cut(store, examples))


def _cut(store: TokenStore, examples: Examples) -> str:
    """What is lost of documents that are longer than a row, in words.

    Examples whose documents become the same stay: an evaluation is of all, and one that leaves out
    the hard ones says another thing. UserError where nothing else is left.
    """
    if not examples.num_truncated:
        return ''
    about = f', {examples.num_truncated:,} documents cut'
    alike = num_alike(store, examples.length) if store.group > 1 else 0
    if alike == len(examples):
        raise UserError(
            f'data.seq_len: in each example of the split {store.split!r} two documents have the '
            f'same first {examples.length} tokens, so there is nothing to choose; use a larger one'
        )
    return about + f', {alike:,} of {len(examples):,} examples with two the same' * bool(alike)


def _named(name: str, call: Callable) -> Callable:
    """`call`, whose mistakes are told with the name of the source, if it has one."""

    def told(*args: object) -> object:
        try:
            return call(*args)
        except UserError as e:
            raise UserError(f'data.mixture: {name}: {e}') from e

    return told if name else call
